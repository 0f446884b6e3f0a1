"""Worker side of steering against a plain loop over tokens."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.edits.program import compile_program
from pilothouse.engine.scheduler.messages import PolicySpan, Steering, StepPlan, Upload
from pilothouse.engine.worker.batch_state import FEW_SEGMENTS, SteeringState, positions
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.engine.worker.tables import named_tensors
from pilothouse.term import SteerTerm
from pilothouse.types import Tap
from tests.reference.policy_steering import strength_at
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import make_plan, random_rows

MOST = 64


PUSH = {"phase": "output", "when": "x >= 0.5"}
PLAN = make_plan(
    Catalog(
        vectors={"v": vector("v", (0, 1)), "w": vector("w", (1,))},
        probes={"p": probe("p", {0: random_rows(1, 1)[0]}, {"now": readout("output")})},
    ),
    [
        policy(
            name,
            [PUSH | {"id": "r", "then": {"action": "steer", "vector": name, "scale": 1.0}}],
            {"x": "p/now"},
        )
        for name in ("v", "w")
    ],
    limits={"max_programs": 3},
)
TARGETS = len(PLAN.body.policy_targets)


def make_state() -> tuple[SteeringState, TapBuffers]:
    parts = dict.fromkeys(PLAN.taps(), slice(0, PLAN.body.model.d_model))
    buffers = TapBuffers.allocate(PLAN, parts, max_tokens=MOST, device=torch.device("cpu"))
    return SteeringState(buffers, TARGETS), buffers


def steering_from(parts: list[tuple[int, int, float]]) -> Steering:
    starts = np.cumsum([0, *(length for length, _, _ in parts[:-1])]).tolist()
    return Steering(
        tuple(starts), tuple(slot for _, slot, _ in parts), tuple(each for _, _, each in parts)
    )


part = st.tuples(st.integers(1, 9), st.integers(0, 3), st.floats(-2, 2, width=32))
steering = st.lists(part, min_size=1, max_size=2 * FEW_SEGMENTS).map(steering_from)
batch = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.integers(0, 12), st.integers(1, 6)),
    max_size=6,
    unique_by=lambda each: each[0],
)
STRENGTHS = (1.0, 2.0, -2.0, 0.5)
"""Of the rules by rank."""
spans = st.builds(
    lambda name, target, start, stop, rank: PolicySpan(
        name, target, start, stop, STRENGTHS[rank], rank
    ),
    st.sampled_from("abcdefg"),
    st.integers(0, TARGETS - 1),
    st.integers(0, 12),
    st.integers(0, 20),
    st.integers(0, len(STRENGTHS) - 1),
)
"""Of any rule at any time, also several that begin together."""


@settings(max_examples=150)
@given(
    st.dictionaries(st.sampled_from("abcdefg"), steering),
    st.lists(spans, max_size=8),
    st.lists(batch, min_size=1, max_size=4),
    st.sets(st.sampled_from("abcdefg")),
)
def test_buffers_equal_a_loop_over_tokens_whatever_came_before(
    told: dict[str, Steering], spans: list[PolicySpan], batches: list, ended: set[str]
) -> None:
    state, buffers = make_state()
    state.apply(StepPlan(steering=told, spans=spans), set())
    for number, members in enumerate(batches):
        if number == len(batches) - 1:
            state.apply(StepPlan(), ended)
            told = {name: each for name, each in told.items() if name not in ended}
            spans = [span for span in spans if span.request_id not in ended]
        names = [name for name, _, _ in members]
        starts = np.array([start for _, start, _ in members], np.int64)
        counts = np.array([count for _, _, count in members], np.int64)
        state.write(names, starts, counts)
        slots, coefficients, strengths = [], [], []
        for name, start, count in members:
            for position in range(start, start + count):
                each = told.get(name, Steering((0,), (0,), (0.0,)))
                at = max(i for i, start in enumerate(each.starts) if start <= position)
                slots.append(each.slots[at])
                coefficients.append(each.coefficients[at])
                mine = [span for span in spans if span.request_id == name]
                strengths.append(
                    [
                        strength_at(position, [span for span in mine if span.target == target])
                        for target in range(TARGETS)
                    ]
                )
        padding = MOST - len(slots)
        assert buffers.slot_N.device_tensor.tolist() == slots + [0] * padding
        assert buffers.coefficient_N.device_tensor.tolist() == coefficients + [0.0] * padding
        want = np.zeros((MOST, TARGETS))
        want[: len(strengths)] = np.array(strengths).reshape(-1, TARGETS)
        assert np.array_equal(buffers.policy_NP.device_tensor.numpy(), want)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 9)), max_size=12),
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
)
def test_a_request_fed_again_gets_at_each_position_what_it_had(
    fired: list[tuple[str, int, int]], chunks: list[int]
) -> None:
    state, buffers = make_state()
    had: dict[str, list[list[float]]] = {"a": [], "b": []}
    for step, (name, rank, hold) in enumerate([*fired, ("a", 0, 1)]):
        # One token of each a step; what fires holds from the next one on.
        state.write(["a", "b"], np.array([step, step]), np.array([1, 1]))
        for i, each in enumerate("ab"):
            had[each].append(buffers.policy_NP.device_tensor[i].tolist())
        span = PolicySpan(name, rank % TARGETS, step + 1, step + 1 + hold, STRENGTHS[rank], rank)
        state.apply(StepPlan(spans=[span]), set())
    first = 0
    for chunk in chunks:
        count = min(chunk, len(had["b"]) - first)
        if count <= 0:
            break
        state.write(["b"], np.array([first]), np.array([count]))
        again = buffers.policy_NP.device_tensor[:count].tolist()
        assert again == had["b"][first : first + count]
        first += count


def test_a_rule_that_fires_at_the_last_token_leaves_nothing_behind() -> None:
    state, _ = make_state()
    state.apply(StepPlan(spans=[PolicySpan("a", 0, 3, 9, 1.0, 0)]), {"a"})
    state.apply(StepPlan(spans=[PolicySpan("b", 0, 3, 9, 1.0, 0)]), set())
    assert list(state._spans) == ["b"]


@given(st.data())
def test_what_is_told_of_later_positions_leaves_the_earlier_ones(data: st.DataObject) -> None:
    state, buffers = make_state()
    wanted: list[tuple[int, float]] = [(0, 0.0)] * 12
    since = 0
    while since < 12:
        starts = [since, *sorted(data.draw(st.sets(st.integers(since + 1, 40), max_size=12)))]
        slots = data.draw(st.lists(st.integers(0, 3), min_size=len(starts), max_size=len(starts)))
        told = Steering(tuple(starts), tuple(slots), tuple(map(float, slots)), since)
        state.apply(StepPlan(steering={"a": told}), set())
        for position in range(since, 12):
            at = max(i for i, start in enumerate(starts) if start <= position)
            wanted[position] = slots[at], float(slots[at])
        state.write(["a"], np.array([0]), np.array([12]))
        assert buffers.slot_N.device_tensor.tolist()[:12] == [slot for slot, _ in wanted]
        assert buffers.coefficient_N.device_tensor.tolist()[:12] == [each for _, each in wanted]
        since = data.draw(st.integers(since + 1, 12))


def test_positions_run_on_from_each_start() -> None:
    assert positions(np.array([5, 0, 9]), np.array([2, 3, 1])).tolist() == [5, 6, 0, 1, 2, 9]


def test_an_upload_clears_the_taps_it_does_not_edit() -> None:
    _, buffers = make_state()
    sources = PLAN.sources
    both = compile_program([SteerTerm(vector="v", scale=1.0)], sources)
    one = compile_program([SteerTerm(vector="w", scale=1.0)], sources)
    assert both is not None
    assert one is not None
    buffers.upload(Upload(2, both.layers))
    buffers.upload(Upload(2, one.layers))
    low, high = (
        named_tensors(buffers.tables[Tap(layer, "resid_post")])["additions_vectors_SD"]
        for layer in (0, 1)
    )
    assert low.abs().sum() == 0
    [additions] = one.layers[Tap(1, "resid_post")].tables
    assert np.array_equal(high[2].numpy(), *additions.numbers())
    assert high[[0, 1, 3]].abs().sum() == 0
