"""Streaming equals offline, whatever the cut; what cannot be scored never looks harmless."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.aggregate import (
    MAX_TOP_TOKENS,
    MAX_WINDOW_TOKENS,
    PARAMETERS,
    TRAITS,
    AggregateTraits,
    described,
)
from pilothouse.errors import ConfigError
from pilothouse.probes.aggregators import AGGREGATORS, make_aggregator, register_aggregator
from pilothouse.probes.aggregators.ema_last import EMA_BLOCK
from pilothouse.types import Aggregate, AggregateKind
from tests.reference.aggregation import aggregated

AGGREGATES = (
    Aggregate("max"),
    Aggregate("mean"),
    Aggregate("last"),
    *(Aggregate(kind, half) for kind in ("ema_max", "ema_last") for half in (0.1, 4.0, 300.0)),
    *(Aggregate("top_k_mean", k_tokens=k) for k in (1, MAX_TOP_TOKENS)),
    *(
        Aggregate(kind, window_tokens=window)
        for kind in ("sliding_max", "sliding_mean")
        for window in (1, 16, MAX_WINDOW_TOKENS)
    ),
    *(
        Aggregate(kind, temperature=temperature)
        for kind in ("softmax_mean", "log_sum_exp")
        for temperature in (0.01, 5.0)
    ),
    Aggregate("noisy_or"),
    *(
        Aggregate(kind, reference_logit=reference, drift_logits=drift)
        for kind in ("cusum_max", "cusum_last")
        for reference, drift in ((-0.5, 0.1), (-30.0, 1.0))
    ),
    *(
        Aggregate("k_of_n", k_tokens=k, window_tokens=window, on_logit=on, off_logit=off)
        for k, window, on, off in (
            (1, 1, 0.0, 0.0),
            (3, 16, 0.7, -0.2),
            (60, 256, 0.5, 0.5),
        )
    ),
)

EXAMPLES = 40
"""Of each of them: they are many."""

each_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES, ids=described)


@st.composite
def cut_runs(draw: st.DrawFn) -> tuple[list[float], list[tuple[int, bool]]]:
    """Logits, and a way to cut them: (length, fold or step) of each piece."""
    seed, count = draw(st.integers(0, 1 << 32)), draw(st.integers(1, 3 * EMA_BLOCK + 2))
    generator = np.random.default_rng(seed)
    scale, centre = draw(st.sampled_from([1e-3, 1.0, 50.0])), draw(st.sampled_from([-30.0, 0, 9]))
    logits = (centre + scale * generator.normal(size=count)).tolist()
    inner = draw(st.lists(st.integers(0, count), max_size=8))
    cuts = [0, *sorted(inner), count]
    return logits, [(end - first, draw(st.booleans())) for first, end in pairwise(cuts)]


def streamed(aggregate: Aggregate, logits: list[float], cuts: list[tuple[int, bool]]) -> float:
    """The value after the pieces, in the middle of a batch whose other rows are busy too."""
    aggregator = make_aggregator(aggregate)
    states = aggregator.start(3)
    assert states.shape == (3, aggregator.state_width)
    assert states.dtype == np.float64
    at = 0
    for length, folds in cuts:
        piece = np.array(logits[at : at + length])
        at += length
        if folds:
            aggregator.fold(states[1], piece)
            continue
        for logit in piece:
            aggregator.step(states, np.array([1e6, logit, np.nan]))
    return float(aggregator.value(states)[1])


@each_aggregate
@settings(max_examples=EXAMPLES)
@given(run=cut_runs())
def test_any_cut_gives_what_the_whole_run_gives(
    aggregate: Aggregate, run: tuple[list[float], list[tuple[int, bool]]]
) -> None:
    logits, cuts = run
    wanted = aggregated(aggregate, logits)
    got = streamed(aggregate, logits, cuts)
    assert got == pytest.approx(wanted, rel=1e-5, abs=1e-9)


@st.composite
def ragged_batches(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Runs of several requests, of very different lengths, and what some of them had before."""
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    lengths = draw(st.lists(st.integers(1, 2 * EMA_BLOCK + 3), min_size=1, max_size=6))
    before = [draw(st.sampled_from([0, 1, 5, EMA_BLOCK])) for _ in lengths]
    unknown = draw(st.sampled_from([None, np.nan, np.inf, -np.inf]))
    runs = [generator.normal(size=length) for length in lengths]
    if unknown is not None:
        hit = runs[draw(st.integers(0, len(runs) - 1))]
        hit[draw(st.integers(0, len(hit) - 1))] = unknown
    return [generator.normal(size=count) for count in before], runs


@each_aggregate
@settings(max_examples=EXAMPLES)
@given(batch=ragged_batches())
def test_a_batch_of_runs_gives_what_each_run_gives_alone(
    aggregate: Aggregate, batch: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    before, runs = batch
    aggregator = make_aggregator(aggregate)
    alone, together = aggregator.start(len(runs)), aggregator.start(len(runs))
    for states in (alone, together):
        for state, logits in zip(states, before, strict=True):
            aggregator.fold(state, logits)
    for state, logits in zip(alone, runs, strict=True):
        aggregator.fold(state, logits)
    counts = np.array([len(each) for each in runs], np.int64)
    aggregator.fold_runs(together, np.concatenate(runs), counts)
    assert aggregator.value(together) == pytest.approx(
        aggregator.value(alone), rel=1e-9, abs=1e-12, nan_ok=True
    )
    for states in (alone, together):
        aggregator.step(states, np.full(len(runs), 0.25))
    assert aggregator.value(together) == pytest.approx(
        aggregator.value(alone), rel=1e-9, abs=1e-12, nan_ok=True
    )


@each_aggregate
@settings(max_examples=EXAMPLES)
@given(batch=ragged_batches())
def test_values_after_each_token_of_a_run_are_those_of_the_run_so_far(
    aggregate: Aggregate, batch: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    aggregator = make_aggregator(aggregate)
    for earlier, run in zip(*batch, strict=True):
        states = aggregator.start(1)
        aggregator.fold(states[0], earlier)
        untouched = states.copy()
        got_T = aggregator.running(states[0], run)
        assert np.array_equal(states, untouched, equal_nan=True)
        wanted = []
        for logit in run:
            aggregator.step(states, np.array([logit]))
            wanted.append(float(aggregator.value(states)[0]))
        assert got_T == pytest.approx(np.array(wanted), rel=1e-9, abs=1e-12, nan_ok=True)


@each_aggregate
def test_a_long_prompt_equals_the_definition(aggregate: Aggregate) -> None:
    logits = np.random.default_rng(3).normal(size=20_000)
    aggregator = make_aggregator(aggregate)
    state = aggregator.start(1)
    aggregator.fold(state[0], logits)
    assert aggregator.value(state)[0] == pytest.approx(
        aggregated(aggregate, logits.tolist()), rel=1e-9
    )


@each_aggregate
def test_no_token_is_no_value(aggregate: Aggregate) -> None:
    aggregator = make_aggregator(aggregate)
    states = aggregator.start(2)
    aggregator.fold(states[0], np.empty(0))
    assert np.isnan(aggregator.value(states)).all()


@each_aggregate
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("whole", [True, False])
def test_an_unscored_token_is_never_passed_over(
    aggregate: Aggregate, bad: float, whole: bool
) -> None:
    aggregator = make_aggregator(aggregate)
    states = aggregator.start(1)
    pieces = [[1.0, bad, 2.0, 3.0]] if whole else [[1.0], [bad], [2.0, 3.0]]
    for piece in pieces:
        aggregator.fold(states[0], np.array(piece))
    value = aggregator.value(states)[0]
    assert value == 3.0 if aggregate.kind == "last" else math.isnan(value)
    aggregator.step(states, np.array([bad]))
    assert math.isnan(aggregator.value(states)[0])


@each_aggregate
def test_neighbours_do_not_touch_each_other(aggregate: Aggregate) -> None:
    aggregator = make_aggregator(aggregate)
    runs = np.random.default_rng(5).normal(size=(16, 40))
    states = aggregator.start(16)
    for token in range(40):
        some = np.flatnonzero((np.arange(16) + token) % 3 > 0)
        taken = states[some]
        aggregator.step(taken, runs[some, token])
        states[some] = taken
    for row in range(16):
        seen = [runs[row, token] for token in range(40) if (row + token) % 3 > 0]
        assert aggregator.value(states)[row] == pytest.approx(aggregated(aggregate, seen), rel=1e-9)


@each_aggregate
def test_reading_the_value_changes_nothing(aggregate: Aggregate) -> None:
    aggregator = make_aggregator(aggregate)
    states = aggregator.start(4)
    aggregator.step(states, np.arange(4.0))
    before = states.copy()
    aggregator.value(states)[:] = 7.0
    assert np.array_equal(states, before)


@each_aggregate
def test_a_step_of_256_requests_is_a_few_array_operations(aggregate: Aggregate) -> None:
    aggregator = make_aggregator(aggregate)
    states, logits = aggregator.start(256), np.zeros(256)
    best = math.inf
    for _ in range(50):
        begin = time.perf_counter()
        aggregator.step(states, logits)
        best = min(best, time.perf_counter() - begin)
    assert best < 100e-6


def test_an_ema_starts_at_its_first_token() -> None:
    aggregator = make_aggregator(Aggregate("ema_max", 10.0))
    states = aggregator.start(1)
    aggregator.step(states, np.array([-8.0]))
    assert aggregator.value(states)[0] == -8.0


def test_after_a_half_life_half_of_the_past_is_left() -> None:
    aggregator = make_aggregator(Aggregate("ema_last", 5.0))
    states = aggregator.start(1)
    aggregator.fold(states[0], np.array([1.0, 0, 0, 0, 0, 0]))
    assert aggregator.value(states)[0] == pytest.approx(0.5)


VALID = {each.kind: each for each in AGGREGATES}
EVERY_PARAMETER = [(kind, name) for kind, traits in TRAITS.items() for name in traits.parameters]


@pytest.mark.parametrize(("kind", "name"), EVERY_PARAMETER)
def test_a_parameter_that_is_missing_or_out_of_range_is_refused(kind: str, name: str) -> None:
    parameter = TRAITS[kind].parameters[name]
    beyond = (math.nextafter(parameter.low, -math.inf), math.nextafter(parameter.high, math.inf))
    fractions = (1.5, 3.0) if parameter.is_whole else ()
    for value in (None, *beyond, math.nan, math.inf, True, "4", *fractions):
        with pytest.raises(ConfigError, match=rf"aggregate: {name}: got .* want a .*number from"):
            make_aggregator(replace(VALID[kind], **{name: value}))


@pytest.mark.parametrize("kind", TRAITS)
def test_a_parameter_without_effect_is_refused(kind: str) -> None:
    for name in sorted(set(PARAMETERS) - set(TRAITS[kind].parameters)):
        with pytest.raises(ConfigError, match=f"{name}: got 1 with kind '{kind}', want .*remove"):
            make_aggregator(replace(VALID[kind], **{name: 1}))


def test_an_alarm_that_can_never_be_raised_or_never_ends_is_refused() -> None:
    alarm = Aggregate("k_of_n", k_tokens=3, window_tokens=16, on_logit=1.0, off_logit=0.0)
    make_aggregator(replace(alarm, k_tokens=16, off_logit=1.0))
    with pytest.raises(
        ConfigError, match=r"k_tokens: got 17 .* at most window_tokens, which is 16"
    ):
        make_aggregator(replace(alarm, k_tokens=17))
    with pytest.raises(ConfigError, match=r"off_logit: got 1\.5 .* at most on_logit, which is 1"):
        make_aggregator(replace(alarm, off_logit=1.5))


def test_a_state_is_no_larger_than_the_window_and_a_few_numbers() -> None:
    for aggregate in AGGREGATES:
        held = (aggregate.window_tokens or 0, aggregate.k_tokens or 0)
        assert make_aggregator(aggregate).state_width <= max(held) + 5
        assert max(held) <= MAX_WINDOW_TOKENS


def values(aggregate: Aggregate, *logits: float) -> list[float]:
    """The value after each token."""
    aggregator = make_aggregator(aggregate)
    return aggregator.running(aggregator.start(1)[0], np.array(logits, float)).tolist()


def test_a_window_that_is_not_full_is_the_mean_so_far_and_no_maximum() -> None:
    assert values(Aggregate("sliding_mean", window_tokens=2), 4, 0, 2, 6) == [4, 2, 1, 4]
    assert values(Aggregate("sliding_max", window_tokens=2), 4, 0, 2, 0) == [4, 2, 2, 2]


def test_what_a_huge_logit_took_from_a_window_comes_back_when_it_is_past() -> None:
    window = Aggregate("sliding_mean", window_tokens=3)
    assert values(window, 1e30, 1, 2, 3, 4)[-2:] == [2, 3]
    drained = Aggregate("cusum_last", reference_logit=0.0, drift_logits=0.0)
    assert values(drained, -1e30, 1, 2) == [0, 1, 3]


def test_an_alarm_is_kept_up_by_less_than_what_raises_it() -> None:
    alarm = Aggregate("k_of_n", k_tokens=2, window_tokens=2, on_logit=1.0, off_logit=0.0)
    got = values(alarm, 1, 0.5, 1, 1, 0.5, 0.5, -1, 0.5, 1, 1)
    assert [value > 0 for value in got] == [False] * 3 + [True] * 3 + [False] * 3 + [True]


def test_one_token_of_a_noisy_or_has_its_own_logit() -> None:
    for logit in (-900.0, -40.0, -36.0, -1e-9, 0.0, 3.0, 36.0, 40.0, 900.0):
        assert values(Aggregate("noisy_or"), logit) == pytest.approx([logit], rel=1e-12)


def test_a_later_spike_does_not_reach_the_values_before_it() -> None:
    for temperature in (0.01, 5.0):
        mean = Aggregate("softmax_mean", temperature=temperature)
        assert values(mean, 1.0, 1.0, 9e3)[:2] == pytest.approx([1.0, 1.0], rel=1e-6)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"kind: got 'median', want one of \['cusum_last'"):
        make_aggregator(Aggregate("median"))


def test_a_kind_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'max' is registered twice"):
        register_aggregator("max", AggregateTraits())


def test_a_kind_comes_with_its_traits() -> None:
    assert set(AGGREGATORS) == set(TRAITS) == set(get_args(AggregateKind))
    with pytest.raises(ConfigError, match="'median': got no traits"):
        register_aggregator("median")
