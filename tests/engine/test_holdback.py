"""Hold-back: tokens leave in order, once, with their logprobs, below the limits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.outputs import LogprobsLists

from pilothouse.engine.holdback import HoldBack


def logprobs(tokens: list[int]) -> LogprobsLists:
    column = np.array(tokens)[:, None]
    return LogprobsLists(column, column / 10, np.array(tokens))


steps = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3), st.integers(0, 12)), max_size=9)


@given(steps, st.integers(1, 8))
def test_what_leaves_is_a_prefix_below_the_cleared_and_visible_limits(
    steps: list[tuple[list[int], int]], visible: int
) -> None:
    held = HoldBack(visible)
    came: list[int] = []
    left: list[int] = []
    highest = 0
    for tokens, cleared in steps:
        held.push(tokens, logprobs(tokens) if tokens else None)
        came += tokens
        highest = max(highest, cleared)
        released, slices = held.release(cleared)
        left += released
        if released:
            assert slices.logprob_token_ids[:, 0].tolist() == released
            assert slices.sampled_token_ranks.tolist() == released
        else:
            assert slices is None
    assert left == came[: len(left)]
    assert held.released == len(left) <= min(visible, highest)
    assert len(held) == len(came) - len(left)


def test_drop_counts_what_is_forgotten() -> None:
    held = HoldBack(9)
    held.push([1, 2, 3], None)
    held.release(1)
    assert (held.drop(), len(held), held.release(9)) == (2, 0, ([], None))
