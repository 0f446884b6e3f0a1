"""The end of one choice: what was concluded, and what the client is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pilothouse.policy.rulebook import CompiledRule, Rulebook
from pilothouse.policy.schema import DEFAULT_REFUSAL
from pilothouse.record import FeatureCode, RuleOutcome, TokenScores, Verdict
from pilothouse.server.admission import Admitted
from pilothouse.server.response.decision_store import ChoiceKey, Entry
from pilothouse.server.response.final_rules import FinalRules

ChoiceAction = Literal["allow", "steer", "respond", "block"]
"""What was done to an answer, weakest first. Logs, tags and shadow verdicts do nothing to it."""
DEEDS: tuple[ChoiceAction, ...] = ("allow", "steer", "respond", "block")


@dataclass(frozen=True, slots=True)
class Termination:
    """How a verdict ends a choice."""

    deed: Literal["respond", "block"]
    message: str
    as_error: bool
    """A prompt verdict to be answered with an HTTP error where that is still possible."""
    withholds_all: bool
    """Nothing of the choice is cleared: a verdict on the prompt, or on the whole answer."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one choice."""

    deed: ChoiceAction
    ending: Termination | None
    visible: dict[str, Any]
    """The choice's `pilothouse` object."""


class FinalDecision:
    """Settles choices against one rulebook; tells `count_final` of every final rule evaluated."""

    def __init__(
        self, rulebook: Rulebook, count_final: Callable[[Iterable[RuleOutcome]], None]
    ) -> None:
        self._rules = {(rule.policy, rule.rule): rule for rule in rulebook.rules}
        self._final = FinalRules(rulebook)
        self._count_final = count_final

    def ending(self, verdict: Verdict) -> Termination:
        """How a verdict is to be carried out."""
        rule: CompiledRule | None = self._rules.get((verdict.policy, verdict.rule))
        message = rule.message if rule is not None else None
        prompt_error = rule is not None and rule.as_ == "error" and verdict.phase == "prompt"
        return Termination(
            deed="respond" if verdict.action == "respond" else "block",
            message=message or DEFAULT_REFUSAL,
            as_error=prompt_error,
            withholds_all=verdict.phase != "output",
        )

    def settle(self, admitted: Admitted, entry: Entry, key: ChoiceKey) -> Settlement:
        """Run the final rules on a choice that has ended, once, and sum it up."""
        log = entry.choices.get(key)
        if log is None and admitted.exposure.ends:
            return self.unaccounted(admitted)
        outcomes: list[RuleOutcome] = list(log.newest.outcomes) if log is not None else []
        verdict = log.verdict if log is not None else None
        if verdict is None:
            values = log.newest.values if log is not None else {}
            final = self._final.conclude(admitted.exposure.applied, values)
            self._count_final(final.outcomes)
            outcomes += final.outcomes
            verdict = final.verdict
        ending = self.ending(verdict) if verdict is not None else None
        deed = _deed(ending, outcomes)
        visible: dict[str, Any] = {"action": deed}
        if admitted.sees_scores:
            visible |= _granted(admitted, entry, key, outcomes)
        return Settlement(deed, ending, visible)

    def unaccounted(self, admitted: Admitted) -> Settlement:
        """End a choice of which no record tells what the rules concluded.

        It fails closed whatever `on_error` says: a score may be missing by accident, an account
        of the whole choice only by a fault.
        """
        names = {each.name for each in admitted.exposure.applied if each.enforced}
        rules = [rule for rule in self._rules.values() if rule.ends and rule.policy in names]
        outcomes = [
            RuleOutcome(rule.policy, rule.rule, rule.phase, "enforce", "error_blocked")
            for rule in rules
        ]
        self._count_final(outcomes)
        ending = Termination("block", DEFAULT_REFUSAL, as_error=False, withholds_all=True)
        visible: dict[str, Any] = {"action": ending.deed}
        if admitted.sees_scores:
            visible["rules"] = [_rule(each, {}) for each in outcomes]
        return Settlement(ending.deed, ending, visible)


def _deed(ending: Termination | None, outcomes: Iterable[RuleOutcome]) -> ChoiceAction:
    if ending is not None:
        return ending.deed
    return "steer" if any(each.result == "steered" for each in outcomes) else "allow"


def _granted(
    admitted: Admitted, entry: Entry, key: ChoiceKey, outcomes: Iterable[RuleOutcome]
) -> dict[str, Any]:
    """What only a caller with the grant sees."""
    log = entry.choices.get(key)
    detail = admitted.sealed.scores
    features = log.newest.features if log is not None else {}
    shown: dict[str, Any] = {"rules": [_rule(each, features) for each in outcomes if _tells(each)]}
    if detail != "none":
        shown["scores"] = dict(sorted(log.newest.values.items())) if log is not None else {}
    if detail == "tokens":
        shown["token_scores"] = [_token(each) for each in (log.token_scores if log else ())]
    shown["steered"] = dict(log.newest.steered_tokens) if log is not None else {}
    return shown


def _tells(outcome: RuleOutcome) -> bool:
    return outcome.result != "allowed"


def _rule(outcome: RuleOutcome, features: Mapping[str, Sequence[FeatureCode]]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "policy": outcome.policy,
        "rule": outcome.rule,
        "phase": outcome.phase,
        "mode": outcome.mode,
        "result": outcome.result,
    }
    if outcome.at_token is not None:
        shown["at_token"] = outcome.at_token
    codes = features.get(f"{outcome.policy}/{outcome.rule}")
    if codes is not None:
        shown["features"] = [_feature(each) for each in codes]
    return shown


def _feature(code: FeatureCode) -> dict[str, Any]:
    label = {} if code.label is None else {"label": code.label}
    return {"feature": code.feature, **label, "code": code.code}


def _token(scores: TokenScores) -> dict[str, Any]:
    return {"index": scores.index, "token_id": scores.token_id, **scores.scores}
