"""Rules over live scores, fed with emissions by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.scheduler.authorship import Authorship
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.policy_engine import PolicyEngine, StepDecisions
from pilothouse.signed_request import AppliedPolicy, SignedRequest
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import make_plan, random_rows

BLOCK: dict[str, Any] = {"action": "block"}
PUSH: dict[str, Any] = {"action": "steer", "vector": "v", "scale": 2.0, "hold_tokens": 5}
PROMPT = 4
HIGH, LOW = 9.0, -9.0


def rule(when: str, then: dict[str, Any] = BLOCK, phase: str = "output", **more: Any):
    return {"id": "r", "phase": phase, "when": when, "then": then} | more


POLICIES = (
    policy("now", [rule("x >= 0.5")], {"x": "p/now"}),
    policy("run", [rule("x >= 0.5 for 3 tokens")], {"x": "p/now"}),
    policy("leak", [rule("x >= 0.5 for 3 tokens", leak_tokens=1)], {"x": "p/now"}),
    policy("seen", [rule("x >= 0.5", phase="prompt")], {"x": "p/seen"}),
    policy("push", [rule("x >= 0.5", PUSH)], {"x": "p/now"}),
    policy("open", [rule("x >= 0.5")], {"x": "p/now"}, on_error="open"),
    policy("canned", [rule("x >= 0.5", {"action": "respond", "message": "No."})], {"x": "p/now"}),
)


class Fed:
    """A policy_engine with one request, fed one logit at a time."""

    def __init__(
        self,
        *enforced: str,
        shadow: tuple[str, ...] = (),
        check: bool = False,
        answer_start: int | None = None,
    ) -> None:
        catalog = Catalog(
            vectors={"v": vector("v", (1,))},
            probes={
                "p": probe(
                    "p",
                    {0: random_rows(1, 1)[0]},
                    {"now": readout("output"), "seen": readout("prompt", "max")},
                )
            },
        )
        self.policy_engine = PolicyEngine(make_plan(catalog, POLICIES))
        policies = [AppliedPolicy(name=name, enforced=True) for name in enforced]
        policies += [AppliedPolicy(name=name, enforced=False) for name in shadow]
        sealed = SignedRequest(decision_id="d", revision="r", policies=tuple(policies), check=check)
        prompt: int | Authorship = PROMPT
        if answer_start is not None:
            prompt = Authorship(PROMPT, np.array([answer_start - 1], np.int64), answer_start)
        self.rules = self.policy_engine.open("r", sealed, prompt)
        self.position = 0

    def feed(self, *logits: float) -> StepDecisions:
        scores_TE = np.array(logits, np.float32)[:, None]
        emissions = Emissions(("r",), (self.position,), (len(logits),), scores_TE)
        self.position += len(logits)
        return self.policy_engine.step([emissions])

    def prompt(self, *logits: float) -> StepDecisions:
        return self.feed(*(logits or (LOW,) * PROMPT))

    @property
    def cleared(self) -> int:
        return self.policy_engine.cleared(self.rules)


def test_a_token_is_cleared_once_it_is_scored_and_harmless() -> None:
    fed = Fed("now")
    fed.prompt()
    assert fed.cleared == 0
    fed.feed(LOW)
    assert fed.cleared == 1


def test_a_running_streak_is_not_cleared_until_it_breaks() -> None:
    fed = Fed("run")
    fed.prompt()
    cleared = []
    for logit in (LOW, HIGH, HIGH, LOW, HIGH):
        fed.feed(logit)
        cleared.append(fed.cleared)
    assert cleared == [1, 1, 1, 4, 4]
    assert fed.rules.verdict is None


@pytest.mark.parametrize(("name", "left"), [("now", 1), ("run", 1), ("leak", 2)])
def test_what_may_leave_when_a_verdict_falls(name: str, left: int) -> None:
    fed = Fed(name)
    fed.prompt()
    fed.feed(LOW)
    while fed.rules.verdict is None:
        fed.feed(HIGH)
    assert fed.rules.cleared_at_end == left


def test_a_prompt_rule_decides_when_the_prompt_is_whole_and_not_before() -> None:
    fed = Fed("seen")
    fed.feed(HIGH, LOW)
    assert fed.rules.verdict is None
    fed.feed(LOW, LOW)
    assert fed.rules.verdict is not None and fed.rules.verdict.phase == "prompt"
    assert fed.rules.cleared_at_end == 0


def test_shadow_concludes_and_ends_nothing() -> None:
    fed = Fed(shadow=("now",))
    fed.prompt()
    fed.feed(HIGH)
    [outcome] = fed.policy_engine.decisions(fed.rules)
    assert (outcome.result, outcome.at_token, fed.rules.verdict) == ("would_block", 0, None)
    assert fed.cleared > 1000


def results(fed: Fed) -> dict[str, str]:
    return {each.policy: each.result for each in fed.policy_engine.decisions(fed.rules)}


def test_a_check_evaluates_every_rule_and_carries_none_out() -> None:
    """A rule of the prompt does not keep the answer from being judged, and nothing is steered."""
    fed = Fed("seen", "now", "run", "push", "canned", shadow=("open",), check=True, answer_start=1)
    told = fed.feed(HIGH, LOW, HIGH, LOW)
    assert results(fed) == {
        "seen": "blocked",
        "now": "blocked",
        "run": "allowed",
        "push": "steered",
        "canned": "responded",
        "open": "would_block",
    }
    assert fed.rules.verdict is None and told.steers == []
    assert not fed.policy_engine.holds_output(fed.rules)


def test_a_check_in_shadow_alone_reads_the_whole_prompt_too() -> None:
    for check in (True, False):
        fed = Fed(shadow=("seen",), check=check)
        assert fed.policy_engine.reads_whole_prompt(fed.rules) is check


def test_a_checks_prompt_ends_where_the_given_answer_begins() -> None:
    """What a client began of an answer, in a request, counts as both."""
    for check, result in ((True, "allowed"), (False, "blocked")):
        fed = Fed("seen", check=check, answer_start=2)
        fed.feed(LOW, LOW, HIGH, LOW)
        assert results(fed) == {"seen": result}


def test_a_check_of_a_prompt_in_pieces_is_one_of_the_whole() -> None:
    for pieces in ((4,), (1, 3), (2, 2), (1, 1, 1, 1)):
        fed = Fed("seen", "run", check=True, answer_start=1)
        logits = iter((LOW, HIGH, HIGH, HIGH))
        for count in pieces:
            fed.feed(*(next(logits) for _ in range(count)))
        assert results(fed) == {"seen": "allowed", "run": "blocked"}


def test_block_outranks_respond_when_both_fire() -> None:
    fed = Fed("canned", "now")
    fed.prompt()
    fed.feed(HIGH)
    assert fed.rules.verdict is not None
    assert (fed.rules.verdict.policy, fed.rules.verdict.result) == ("now", "blocked")
    results = {each.policy: each.result for each in fed.policy_engine.decisions(fed.rules)}
    assert results == {"now": "blocked", "canned": "responded"}


def test_a_missing_score_ends_a_closed_rule_and_passes_an_open_one() -> None:
    for name, result in (("now", "error_blocked"), ("open", "bypassed")):
        fed = Fed(name)
        fed.prompt()
        fed.feed(float("nan"))
        [outcome] = fed.policy_engine.decisions(fed.rules)
        assert outcome.result == result


def test_a_rule_that_was_bypassed_and_fires_later_counts_as_fired() -> None:
    fed = Fed("open")
    fed.prompt()
    fed.feed(float("nan"))
    fed.feed(HIGH)
    [outcome] = fed.policy_engine.decisions(fed.rules)
    assert (outcome.result, outcome.at_token) == ("blocked", 1)


def test_a_steer_rule_orders_again_while_it_fires_and_is_told_once() -> None:
    fed = Fed("push")
    fed.prompt()
    first, second = fed.feed(HIGH), fed.feed(HIGH)
    for decisions in (first, second):
        [order] = decisions.steers
        assert (order.coefficient, order.hold_tokens) == (2.0, 5)
    assert (first.changed, second.changed) == ({"r"}, set())


def test_a_prompt_without_scores_is_decided_by_on_error() -> None:
    fed = Fed("seen")
    fed.policy_engine.decide_unscored_prompt("r")
    assert fed.rules.verdict is not None
    assert fed.rules.verdict.result == "error_blocked"


def test_rules_of_policies_the_seal_does_not_name_are_not_evaluated() -> None:
    fed = Fed("push")
    fed.prompt(HIGH, HIGH, HIGH, HIGH)
    fed.feed(HIGH)
    assert [each.policy for each in fed.policy_engine.decisions(fed.rules)] == ["push"]
    assert fed.rules.verdict is None


def test_a_closed_request_leaves_no_trace_for_the_next_in_its_row() -> None:
    fed = Fed("run")
    fed.prompt()
    fed.feed(HIGH, HIGH)
    assert fed.policy_engine.close("r") is fed.rules
    sealed = SignedRequest(decision_id="e", revision="r")
    fresh = fed.policy_engine.open("s", sealed, PROMPT)
    assert fresh.row == fed.rules.row
    assert fed.policy_engine.cleared(fresh) > 1000
    assert fed.policy_engine.decisions(fresh) == []
