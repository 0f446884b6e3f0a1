"""What counts, what wins, what is steered."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from pilothouse.policy.decide import outcome_result, strongest
from pilothouse.policy.rulebook import CompiledRule, Rulebook
from pilothouse.types import ActionName, Mode, OnError, Result
from tests.support.policies import SPECS, rule_text, sample_policy

TAKES = {
    "log": "{action: log}",
    "tag": "{action: tag, tag: seen}",
    "steer": "{action: steer, vector: hedge, scale: 2.0}",
    "respond": "{action: respond, message: a}",
    "block": "{action: block}",
}


def compiled(*rules: tuple[str, str, str]) -> list[CompiledRule]:
    """(policy, rule, then) each as its own policy."""
    names = dict.fromkeys(policy for policy, _, _ in rules)
    policies = [
        sample_policy(
            *(rule_text(rule=rule, then=then) for name, rule, then in rules if name == policy),
            name=policy,
        )
        for policy in names
    ]
    return list(Rulebook(policies, SPECS).rules)


@pytest.mark.parametrize(
    ("action", "enforced", "shadowed"),
    [
        ("block", "blocked", "would_block"),
        ("respond", "responded", "would_respond"),
        ("judge", "judged", "would_judge"),
        ("steer", "steered", "would_steer"),
        ("tag", "flagged", "flagged"),
        ("log", "flagged", "flagged"),
    ],
)
@pytest.mark.parametrize("on_error", ["open", "closed"])
def test_a_rule_that_fires_counts_by_action_and_mode(
    action: ActionName, enforced: Result, shadowed: Result, on_error: OnError
) -> None:
    assert outcome_result(action, "enforce", True, False, on_error) == enforced
    assert outcome_result(action, "shadow", True, False, on_error) == shadowed


@pytest.mark.parametrize(
    ("mode", "on_error", "result"),
    [
        ("enforce", "closed", "error_blocked"),
        ("enforce", "open", "bypassed"),
        ("shadow", "closed", "would_block"),
        ("shadow", "open", "bypassed"),
    ],
)
def test_on_error_decides_what_cannot_be_told(
    mode: Mode, on_error: OnError, result: Result
) -> None:
    assert outcome_result("block", mode, False, True, on_error) == result


def test_shadow_never_counts_as_carried_out() -> None:
    carried_out = {"blocked", "responded", "judged", "steered", "error_blocked"}
    for action, fired, missing, on_error in itertools.product(
        get_args(ActionName), (True, False), (True, False), get_args(OnError)
    ):
        assert outcome_result(action, "shadow", fired, missing, on_error) not in carried_out


def test_what_does_not_hold_is_allowed() -> None:
    for action, mode in itertools.product(get_args(ActionName), get_args(Mode)):
        assert outcome_result(action, mode, False, False, "closed") == "allowed"


def test_block_beats_respond_beats_steer_beats_log_in_any_order() -> None:
    order = ["block", "respond", "steer", "log"]
    rules = compiled(*((f"p-{i}", "r", TAKES[kind]) for i, kind in enumerate(reversed(order))))
    for subset_size in range(1, 5):
        for subset in itertools.permutations(rules, subset_size):
            winner = strongest(subset)
            assert winner is not None
            assert winner.kind == min((each.kind for each in subset), key=order.index)


def test_ties_go_to_the_first_policy_then_the_first_rule() -> None:
    rules = compiled(
        ("b", "a", TAKES["block"]), ("a", "z", TAKES["block"]), ("a", "y", TAKES["block"])
    )
    for order in itertools.permutations(rules):
        winner = strongest(order)
        assert winner is not None
        assert (winner.policy, winner.rule) == ("a", "y")


def test_nothing_wins_when_nothing_fired() -> None:
    assert strongest([]) is None
