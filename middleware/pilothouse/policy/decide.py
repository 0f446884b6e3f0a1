"""Decides what an evaluated rule counts as, and which of several rules wins."""

from __future__ import annotations

from collections.abc import Iterable

from pilothouse.policy.rulebook import CompiledRule
from pilothouse.types import ActionName, Mode, OnError, Result

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
