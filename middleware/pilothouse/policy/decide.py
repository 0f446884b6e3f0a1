"""From evaluated rules to results: what is counted, what wins, what is steered."""

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
    """What one evaluated rule counts as.

    Args:
        mode: as it applies to this request (`AppliedPolicy.enforced`), not only as the policy says.
        unavailable: the condition could not be told because a signal was missing.

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
    """The rule that decides among those that fired: block, respond, judge, steer, tag or log.

    Ties go to the first by policy name, then by rule id. None when nothing fired.
    """
    return min(rules, key=_rank, default=None)


def _rank(rule: CompiledRule) -> tuple[int, str, str]:
    return _STRENGTH[rule.kind], rule.policy, rule.rule
