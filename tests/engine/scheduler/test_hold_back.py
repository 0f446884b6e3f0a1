"""Hold-back: tokens leave in order, once, with their logprobs, below the limits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.outputs import LogprobsLists

from pilothouse.engine.scheduler.output_filter import HoldBack


def logprobs(tokens: list[int]) -> LogprobsLists:
    column = np.array(tokens)[:, None]
    return LogprobsLists(column, column / 10, np.array(tokens))


steps = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3), st.integers(0, 12)), max_size=9)


@given(steps, st.integers(1, 8), st.booleans())
def test_what_leaves_is_a_prefix_below_the_cleared_and_visible_limits(
    steps: list[tuple[list[int], int]], visible: int, with_logprobs: bool
) -> None:
    held = HoldBack(visible)
    came: list[int] = []
    left: list[int] = []
    highest = 0
    for tokens, cleared in steps:
        came += tokens
        highest = max(highest, cleared)
        exchanged = None if with_logprobs else held.exchange(tokens, cleared)
        if exchanged is not None:
            left += exchanged
            continue
        held.push(tokens, logprobs(tokens) if tokens and with_logprobs else None)
        released, slices = held.release(cleared)
        left += released
        if released and with_logprobs:
            assert slices.logprob_token_ids[:, 0].tolist() == released
            assert slices.sampled_token_ranks.tolist() == released
        else:
            assert slices is None
    assert left == came[: len(left)]
    assert held.released == len(left) <= min(visible, highest)
    assert len(held) == len(came) - len(left)


def test_exchange_lets_the_held_token_go_for_the_new_one() -> None:
    held = HoldBack(3)
    held.push([7], None)
    assert (held.exchange([8], 1), held.released, len(held)) == ([7], 1, 1)
    assert held.exchange([9], 1) is None, "8 was not cleared"
    assert held.exchange([9], 3) is None, "9 is cleared too: more than an exchange"
    assert (held.exchange([9], 2), held.exchange([1], 3)) == ([8], [9])
    assert held.exchange([2], 9) is None, "the client's limit is reached"
    assert (held.released, len(held)) == (3, 1)


def test_exchange_leaves_tokens_with_logprobs_alone() -> None:
    held = HoldBack(3)
    held.push([7], logprobs([7]))
    assert held.exchange([8], 1) is None
    assert held.release(1)[1].logprob_token_ids.tolist() == [[7]]


def test_tokens_of_steps_of_several_widths_leave_together() -> None:
    wide = LogprobsLists(np.array([[7, 3, 4]]), np.array([[0.7, 0.3, 0.4]]), np.array([1]))
    held = HoldBack(9)
    held.push([7], wide)
    held.push([8], logprobs([8]))
    tokens, slices = held.release(2)
    assert tokens == [7, 8]
    assert slices.logprob_token_ids.tolist() == [[7], [8]]
    assert slices.logprobs.tolist() == [[0.7], [0.8]]


def test_drop_counts_what_is_forgotten() -> None:
    held = HoldBack(9)
    held.push([1, 2, 3], None)
    held.release(1)
    assert (held.drop(), len(held), held.release(9)) == (2, 0, ([], None))
