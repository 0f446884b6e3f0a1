"""Worker side of steering against a plain loop over tokens."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engine.buffers import TapBuffers
from pilothouse.engine.steering_state import SteeringState, positions
from pilothouse.engine.step import PolicySpan, Steering, StepPlan, Upload

MOST = 64
TARGETS = 2


def make_state() -> tuple[SteeringState, TapBuffers]:
    buffers = TapBuffers.allocate(
        max_tokens=MOST, num_columns=1, slots=4, d_model=3, edit_layers=(0, 1), policy_rows={},
        num_targets=TARGETS, device=torch.device("cpu"),
    )  # fmt: skip
    return SteeringState(buffers, TARGETS), buffers


steering = st.builds(
    Steering, st.integers(0, 3), st.floats(-2, 2, width=32), st.integers(0, 3),
    st.floats(-2, 2, width=32), st.integers(1, 9),
)  # fmt: skip
batch = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.integers(0, 12), st.integers(1, 6)),
    max_size=6, unique_by=lambda each: each[0],
)  # fmt: skip
spans = st.builds(
    PolicySpan, st.sampled_from("abcdefg"), st.integers(0, TARGETS - 1), st.integers(0, 12),
    st.integers(0, 20), st.floats(-2, 2, width=32),
)  # fmt: skip


@settings(max_examples=150)
@given(
    st.dictionaries(st.sampled_from("abcdefg"), steering),
    st.lists(spans, max_size=4, unique_by=lambda s: (s.request_id, s.target, s.start)),
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
                each = told.get(name, Steering(0, 0.0, 0, 0.0, 0))
                on_prompt = position < each.num_prompt_tokens
                slots.append(each.slot_prompt if on_prompt else each.slot_output)
                coefficients.append(
                    each.coefficient_prompt if on_prompt else each.coefficient_output
                )
                row = [0.0] * TARGETS
                for span in spans:
                    here = span.request_id == name and span.start <= position < span.stop
                    if here and abs(span.coefficient) > abs(row[span.target]):
                        row[span.target] = span.coefficient
                strengths.append(row)
        padding = MOST - len(slots)
        assert buffers.slot_N.device_tensor.tolist() == slots + [0] * padding
        assert buffers.coefficient_N.device_tensor.tolist() == coefficients + [0.0] * padding
        want = np.zeros((MOST, TARGETS))
        want[: len(strengths)] = np.array(strengths).reshape(-1, TARGETS)
        assert np.array_equal(buffers.policy_NP.device_tensor.numpy(), want)


def test_positions_run_on_from_each_start() -> None:
    assert positions(np.array([5, 0, 9]), np.array([2, 3, 1])).tolist() == [5, 6, 0, 1, 2, 9]


def test_an_upload_clears_the_layers_it_does_not_edit() -> None:
    _, buffers = make_state()
    row = np.arange(3, dtype=np.float32)
    buffers.upload(Upload(2, {0: row, 1: row}))
    buffers.upload(Upload(2, {1: row * 2}))
    assert buffers.tables[0].abs().sum() == 0
    assert buffers.tables[1][2].tolist() == [0.0, 2.0, 4.0]
    assert buffers.tables[1][0].abs().sum() == 0
