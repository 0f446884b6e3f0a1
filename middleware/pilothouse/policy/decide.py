"""Decides what an evaluated rule counts as, and which of several rules wins.

Shape suffixes: B requests, R rules of a phase, S positions of one request.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pilothouse.policy.rulebook import CompiledRule
from pilothouse.types import ActionName, BoolArray, Mode, OnError, Result

_STRENGTH: dict[ActionName, int] = {
    "block": 0,
    "respond": 1,
    "judge": 2,
    "steer": 3,
    "tag": 4,
    "log": 4,
}
_ENFORCED: dict[ActionName, Result] = {
    "block": "blocked",
    "respond": "responded",
    "judge": "judged",
    "steer": "steered",
    "tag": "flagged",
    "log": "flagged",
}
_SHADOWED: dict[ActionName, Result] = {
    "block": "would_block",
    "respond": "would_respond",
    "judge": "would_judge",
    "steer": "would_steer",
    "tag": "flagged",
    "log": "flagged",
}


def advance_streaks(
    streaks_BR: NDArray[np.int64], raw_BR: BoolArray, needed_R: NDArray[np.int64]
) -> BoolArray:
    """Count one more scored token into the streaks, in place, and say which rules fire.

    Args:
        streaks_BR: int, tokens in a row for which each condition has held; updated in place.
        raw_BR: bool, whether it holds at this token (`Rulebook.outcomes`).
        needed_R: int, the N of `for N tokens` (`Rulebook.streaks_of`).

    Returns:
        fired_BR: bool, true from the token that completes a run until the run breaks.
    """
    streaks_BR += 1
    streaks_BR *= raw_BR
    return streaks_BR >= needed_R


def running_streaks(streaks_R: NDArray[np.int64], raw_SR: BoolArray) -> NDArray[np.int64]:
    """Return the streaks of one request after each of several tokens, as `advance_streaks` does.

    Args:
        streaks_R: before the first of them.
        raw_SR: bool, whether each condition holds at each token.
    """
    count_S1 = np.arange(1, len(raw_SR) + 1)[:, None]
    broken_SR = np.maximum.accumulate(np.where(raw_SR, 0, count_S1), axis=0)
    counted_SR: NDArray[np.int64] = count_S1 - broken_SR + np.where(broken_SR == 0, streaks_R, 0)
    return counted_SR


def outcome_result(
    action: ActionName, mode: Mode, fired: bool, unavailable: bool, on_error: OnError
) -> Result:
    """Return what one evaluated rule counts as.

    Args:
        action: what the rule does when it fires.
        mode: as it applies to this request (`AppliedPolicy.enforced`), not only as the policy says.
        fired: the condition holds.
        unavailable: the condition could not be told because a signal was missing.
        on_error: what an unavailable rule counts as.

    Returns:
        An unavailable rule is `bypassed` when open; when closed it is `error_blocked`, or in
        shadow what the action would have been.
    """
    if fired:
        return _ENFORCED[action] if mode == "enforce" else _SHADOWED[action]
    if not unavailable:
        return "allowed"
    if on_error == "open":
        return "bypassed"
    return "error_blocked" if mode == "enforce" else _SHADOWED[action]


def strongest(rules: Iterable[CompiledRule]) -> CompiledRule | None:
    """Return the rule that decides among those that fired: block, respond, judge, steer, tag, log.

    Ties go to the first by policy name, then by rule id. None when nothing fired.
    """
    return min(rules, key=_rank, default=None)


def _rank(rule: CompiledRule) -> tuple[int, str, str]:
    return _STRENGTH[rule.kind], rule.policy, rule.rule
