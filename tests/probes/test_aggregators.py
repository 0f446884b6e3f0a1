"""Streaming equals offline, whatever the cut; what cannot be scored never looks harmless."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.aggregate import TRAITS, AggregateTraits
from pilothouse.errors import ConfigError
from pilothouse.probes.aggregators import AGGREGATORS, make_aggregator, register_aggregator
from pilothouse.probes.aggregators.ema_last import EMA_BLOCK
from pilothouse.types import Aggregate, AggregateKind
from tests.reference.aggregation import aggregated

AGGREGATES = (
    Aggregate("max"),
    Aggregate("mean"),
    Aggregate("last"),
    *(Aggregate(kind, half) for kind in ("ema_max", "ema_last") for half in (0.1, 1.0, 4.0, 300.0)),
)

each_aggregate = pytest.mark.parametrize(
    "aggregate", AGGREGATES, ids=lambda each: f"{each.kind}-{each.half_life_tokens}"
)


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


@pytest.mark.parametrize("kind", ["ema_max", "ema_last"])
@pytest.mark.parametrize("half_life", [None, 0.0, -1.0, 0.09, 2e6, math.nan, math.inf])
def test_a_half_life_out_of_range_is_refused(kind: str, half_life: float | None) -> None:
    with pytest.raises(ConfigError, match="half_life_tokens: got"):
        make_aggregator(Aggregate(kind, half_life))


@pytest.mark.parametrize("kind", ["max", "mean", "last"])
def test_a_half_life_without_effect_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"half_life_tokens: got 4.0 with kind '{kind}'"):
        make_aggregator(Aggregate(kind, 4.0))


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"kind: got 'median', want one of \['ema_last'"):
        make_aggregator(Aggregate("median"))


def test_a_kind_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'max' is registered twice"):
        register_aggregator("max", AggregateTraits())


def test_a_kind_comes_with_its_traits() -> None:
    assert set(AGGREGATORS) == set(TRAITS) == set(get_args(AggregateKind))
    with pytest.raises(ConfigError, match="'median': got no traits"):
        register_aggregator("median")
