"""Heads: streamed in any pieces they give what their definition gives of the whole run."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pilothouse.errors import ConfigError
from pilothouse.head import TRAITS, Head, HeadTraits
from pilothouse.probes.heads import HEADS, Pooling, make_head, read_tokens, register_head
from pilothouse.types import HeadKind
from tests.reference.heads import head_logit

LAYERS, WIDTH = 2, 6
POOLED = (
    Head(kind="attention", heads=1),
    Head(kind="attention", heads=3),
    Head(kind="efficient_probing", heads=2, values_per_head=3),
    Head(kind="multimax", heads=3),
    Head(kind="rolling_attention", heads=2, window=4, order="sum_then_max"),
    Head(kind="rolling_attention", heads=2, window=1, order="max_then_sum"),
    Head(kind="rolling_attention", heads=3, window=7, order="max_then_sum"),
    Head(kind="attention", heads=2, hidden_width=4),
    Head(kind="multimax", heads=2, hidden_width=3, normaliser="rms"),
    Head(kind="attention", heads=2, normaliser="layer_norm"),
)
SINGLE = (
    Head(),
    Head(normaliser="layer_norm"),
    Head(normaliser="rms"),
    Head(kind="mlp", hidden_width=5),
    Head(kind="mlp", hidden_width=3, normaliser="layer_norm"),
    Head(kind="mahalanobis", rank=2),
    Head(kind="mahalanobis", rank=3, normaliser="rms"),
)
EVERY = (*SINGLE, *POOLED)
each_pooled = pytest.mark.parametrize("head", POOLED, ids=lambda head: head.model_dump_json())
each_head = pytest.mark.parametrize("head", EVERY, ids=lambda head: head.model_dump_json())


def arrays_of(head: Head, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: (scale * generator.normal(size=shape)).astype(np.float32)
        for name, shape in head.shapes(layers=LAYERS, width=WIDTH).items()
    }


def pooling_of(head: Head) -> Pooling:
    pooling = make_head(head).pooling()
    assert pooling is not None
    return pooling


def reads_of(head: Head, arrays: dict[str, np.ndarray], states_LTD: np.ndarray) -> np.ndarray:
    return read_tokens(make_head(head).reads(arrays), states_LTD)


def rounding(head: Head) -> float:
    """Of rows that a head makes of its tensors, which are float32 again."""
    made = head.kind == "efficient_probing" or head.normaliser == "layer_norm"
    return 1e-6 if made else 0.0


@st.composite
def cut_states(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """Activations of a run, and pieces of it: (start, stop, whether it is folded or stepped)."""
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    count = draw(st.integers(1, 40))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 3000.0]))
    cuts = [0, *sorted(draw(st.lists(st.integers(0, count), max_size=6))), count]
    states_LTD = scale * generator.normal(size=(LAYERS, count, WIDTH))
    return states_LTD, [(low, high, draw(st.booleans())) for low, high in pairwise(cuts)]


@each_pooled
@given(run=cut_states())
def test_any_cut_gives_what_the_whole_run_gives_after_every_token(
    head: Head, run: tuple[np.ndarray, list[tuple[int, int, bool]]]
) -> None:
    states_LTD, pieces = run
    arrays, pooling = arrays_of(head), pooling_of(head)
    reads_TR = reads_of(head, arrays, states_LTD)
    assert reads_TR.shape[1] == pooling.num_reads
    state_BW, values = pooling.start(3), []
    assert state_BW.shape == (3, pooling.state_width)
    for start, stop, folds in pieces:
        if folds:
            values += pooling.fold_run(state_BW[1], reads_TR[start:stop]).tolist()
            continue
        for read_R in reads_TR[start:stop]:
            pooling.step(state_BW, np.stack([read_R + 1e3, read_R, np.full_like(read_R, np.nan)]))
            values.append(float(pooling.value(state_BW)[1]))
    wanted = [
        head_logit(head, arrays, states_LTD[:, : stop + 1]) for stop in range(states_LTD.shape[1])
    ]
    size = np.abs(reads_TR).max()
    close = size * (1e-9 + rounding(head) * max(1.0, size))
    assert values == pytest.approx(wanted, rel=1e-9, abs=close)
    assert pooling.value(state_BW)[1] == pytest.approx(wanted[-1], rel=1e-9, abs=close)


@pytest.mark.parametrize("head", SINGLE, ids=lambda head: head.model_dump_json())
@given(
    seed=st.integers(0, 1 << 32),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    centre=st.sampled_from([0.0, 5.0]),
)
def test_a_head_of_single_tokens_gives_its_definition_at_each(
    head: Head, seed: int, scale: float, centre: float
) -> None:
    states_LTD = scale * (centre + np.random.default_rng(seed).normal(size=(LAYERS, 5, WIDTH)))
    arrays = arrays_of(head)
    reads_TR = reads_of(head, arrays, states_LTD)
    wanted = [head_logit(head, arrays, states_LTD[:, : stop + 1]) for stop in range(5)]
    assert reads_TR.shape == (5, 1)
    size = (scale * (1.0 + centre)) ** (2 if head.kind == "mahalanobis" else 1)
    assert reads_TR[:, 0] == pytest.approx(wanted, rel=1e-4, abs=1e-4 * max(1.0, size))


@each_pooled
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    before=st.integers(0, 3),
    seed=st.integers(0, 1 << 32),
    hit=st.sampled_from([None, np.nan, np.inf, -np.inf]),
)
def test_a_batch_of_runs_gives_what_each_run_gives_alone(
    head: Head, lengths: list[int], before: int, seed: int, hit: float | None
) -> None:
    pooling, generator = pooling_of(head), np.random.default_rng(seed)
    runs = [generator.normal(size=(count, pooling.num_reads)) for count in lengths]
    earlier = generator.normal(size=(before, pooling.num_reads))
    if hit is not None:
        runs[-1][lengths[-1] // 2, 0] = hit
    alone, together = pooling.start(len(runs)), pooling.start(len(runs))
    for states in (alone, together):
        for state in states:
            pooling.fold_run(state, earlier)
    wanted = [pooling.fold_run(state, run) for state, run in zip(alone, runs, strict=True)]
    got = pooling.fold_runs(together, np.concatenate(runs), np.array(lengths, np.int64))
    assert got == pytest.approx(np.concatenate(wanted), rel=1e-9, abs=1e-9, nan_ok=True)
    for states in (alone, together):
        pooling.step(states, np.full((len(runs), pooling.num_reads), 0.25))
    assert pooling.value(together) == pytest.approx(
        pooling.value(alone), rel=1e-9, abs=1e-9, nan_ok=True
    )


@each_pooled
def test_no_token_is_no_value(head: Head) -> None:
    pooling = pooling_of(head)
    states = pooling.start(2)
    assert pooling.fold_run(states[0], np.zeros((0, pooling.num_reads))).size == 0
    assert np.isnan(pooling.value(states)).all()


@each_pooled
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("read", [0, -1])
@pytest.mark.parametrize("folded", [True, False])
def test_an_unscored_token_is_no_low_score_and_leaves_those_before_it_alone(
    head: Head, bad: float, read: int, folded: bool
) -> None:
    pooling = pooling_of(head)
    reads_TR = np.random.default_rng(2).normal(size=(5, pooling.num_reads))
    wanted = pooling.fold_run(pooling.start(1)[0], reads_TR[:3])
    reads_TR[3, read] = bad
    states, values = pooling.start(1), []
    if folded:
        values = pooling.fold_run(states[0], reads_TR).tolist()
    else:
        for read_R in reads_TR:
            pooling.step(states, read_R[None])
            values.append(float(pooling.value(states)[0]))
    assert values[:3] == pytest.approx(wanted, rel=1e-12)
    assert np.isnan(values[3:]).all()


@each_pooled
def test_a_step_of_256_requests_is_a_few_array_operations(head: Head) -> None:
    pooling = pooling_of(head)
    states, reads = pooling.start(256), np.zeros((256, pooling.num_reads))
    best = math.inf
    for _ in range(50):
        begin = time.perf_counter()
        pooling.step(states, reads)
        pooling.value(states)
        best = min(best, time.perf_counter() - begin)
    assert best < 1e-3


def test_what_is_far_below_the_largest_still_counts_until_that_comes() -> None:
    pooling = pooling_of(Head(kind="attention", heads=1))
    reads_TR = np.array([[0.0, 3.0], [1.0, -2.0], [2000.0, 7.0], [-2000.0, 1.0]])
    got = pooling.fold_run(pooling.start(1)[0], reads_TR)
    assert got == pytest.approx([3.0, (3.0 - 2.0 * math.e) / (1.0 + math.e), 7.0, 7.0])


def test_the_order_of_heads_and_time_is_what_the_head_says() -> None:
    """Heads peak at different tokens, so that one order is the larger."""
    reads_TR = np.array([[0.0, 0.0, 5.0, -1.0], [0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 1.0, 2.0]])
    values = {
        order: pooling_of(Head(kind="rolling_attention", heads=2, window=1, order=order)).fold_run(
            state, reads_TR
        )
        for order, state in (
            ("sum_then_max", np.array([-np.inf])),
            ("max_then_sum", np.full(2, -np.inf)),
        )
    }
    assert values["sum_then_max"].tolist() == [4.0, 4.0, 4.0]
    assert values["max_then_sum"].tolist() == [4.0, 9.0, 9.0]


def test_a_long_prompt_through_windows_is_folded_in_pieces() -> None:
    head = Head(kind="rolling_attention", heads=8, window=64, order="sum_then_max")
    pooling = pooling_of(head)
    reads_TR = np.random.default_rng(4).normal(size=(3000, pooling.num_reads))
    whole, stepped = pooling.start(1), pooling.start(1)
    got_T = pooling.fold_run(whole[0], reads_TR)
    for read_R in reads_TR:
        pooling.step(stepped, read_R[None])
    assert got_T[-1] == pytest.approx(pooling.value(stepped)[0], rel=1e-12)
    assert np.allclose(whole, stepped)


def test_two_layers_with_opposite_rows_read_the_displacement_between_them() -> None:
    row_D = np.arange(1.0, 1.0 + WIDTH, dtype=np.float32)
    states_LTD = np.random.default_rng(1).normal(size=(2, 4, WIDTH))
    reads_TR = reads_of(Head(), {"weights": np.stack([-row_D, row_D])}, states_LTD)
    assert reads_TR[:, 0] == pytest.approx((states_LTD[1] - states_LTD[0]) @ row_D)


def test_sizes_go_with_the_kind() -> None:
    with pytest.raises(ValidationError, match=r"got \['heads'\] with kind 'linear'"):
        Head(heads=2)
    with pytest.raises(ValidationError, match=r"want \['heads'\]"):
        Head(kind="attention")
    for refused in ({"hidden_width": 3}, {"window": 3}, {"rank": 2}):
        with pytest.raises(ValidationError, match="with kind 'linear'"):
            Head(**refused)
    with pytest.raises(ValidationError, match="hidden_width"):
        Head(kind="efficient_probing", heads=1, values_per_head=1, hidden_width=3)
    for heads in (0, 65, 1 << 40):
        with pytest.raises(ValidationError, match="heads"):
            Head(kind="attention", heads=heads)
    with pytest.raises(ValidationError, match="kind"):
        Head.model_validate({"kind": "transformer"})
    with pytest.raises(ValidationError, match="extra"):
        Head.model_validate({"kind": "linear", "extra": 1})


def test_every_kind_is_registered_once_with_its_traits() -> None:
    assert set(HEADS) == set(TRAITS) == set(get_args(HeadKind))
    with pytest.raises(ConfigError, match="'linear' twice"):
        register_head("linear", HeadTraits({"weights": "LD"}))
    with pytest.raises(ConfigError, match="'mixture': got no traits"):
        register_head("mixture")


@each_head
def test_a_kind_pools_as_its_traits_say(head: Head) -> None:
    assert (make_head(head).pooling() is not None) == head.traits.pools
