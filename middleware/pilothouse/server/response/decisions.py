"""What was decided on each live request: what the scheduler said of it, and how each choice ends.

The store has what the scheduler said, by decision id, one per API process. The final rules run
where a choice ends, and what the client is told of it is written here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pilothouse.policy.decide import outcome_result, strongest
from pilothouse.policy.rulebook import CompiledRule, Rulebook
from pilothouse.policy.schema import DEFAULT_REFUSAL
from pilothouse.record import CHECK_ID, Decision, FeatureCode, Record, TokenScores
from pilothouse.server.admission import Admitted
from pilothouse.signed_request import AppliedPolicy
from pilothouse.types import Mode, Result

ChoiceKey = tuple[int, int]
"""(prompt index, n index)."""


@dataclass(slots=True)
class ChoiceLog:
    """The records of one choice so far: the newest, and what must not be lost from older ones."""

    newest: Record
    verdict: Decision | None = None
    token_scores: list[TokenScores] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take in a record; the first verdict stays."""
        self.newest = record
        self.verdict = self.verdict or record.verdict
        self.token_scores += record.token_scores


@dataclass(slots=True)
class RequestDecisions:
    """One request."""

    choices: dict[ChoiceKey, ChoiceLog] = field(default_factory=dict)
    error: str | None = None
    prompt_verdicts: dict[int, Decision] = field(default_factory=dict)
    """By prompt: what was concluded of text that the engine's own record of it does not cover."""

    def add(self, record: Record) -> None:
        """Take in a record of any choice; of a choice that nobody waits for, its error alone."""
        self.error = self.error or record.error
        if record.choice is None:
            return  # Its choice has been answered already, or never was one.
        log = self.choices.get(record.choice)
        if log is None:
            imposed = self.prompt_verdicts.get(record.choice[0])
            log = self.choices[record.choice] = ChoiceLog(record, imposed)
        log.add(record)

    def impose(self, key: ChoiceKey, verdict: Decision) -> None:
        """End a choice by a verdict that did not come from the engine, unless it has one."""
        log = self.choices.get(key)
        if log is not None and log.verdict is None:
            log.verdict = verdict

    def verdicts(self) -> Iterator[Decision]:
        """Decisions so far."""
        return (log.verdict for log in self.choices.values() if log.verdict is not None)

    @property
    def prompt_settled(self) -> bool:
        """No choice heard of so far can still get a prompt verdict."""
        return bool(self.choices) and all(
            log.newest.prompt_done or log.verdict is not None for log in self.choices.values()
        )


class DecisionStore:
    """Live requests of this process. Records of others (answered, aborted) pass by."""

    def __init__(self) -> None:
        self._entries: dict[str, RequestDecisions] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_requests(self) -> bool:
        """Some live entry is a request of a client's, and not a text that is only scored."""
        return any(not each.startswith(CHECK_ID) for each in self._entries)

    def open(self, decision_id: str) -> RequestDecisions:
        """Start listening for a request."""
        entry = self._entries[decision_id] = RequestDecisions()
        return entry

    def close(self, decision_id: str) -> None:
        """Stop listening."""
        self._entries.pop(decision_id, None)

    def receive(self, record: Record) -> None:
        """Called for every record that reaches this process, before the tokens it rides with."""
        entry = self._entries.get(record.decision_id)
        if entry is not None:
            entry.add(record)


ENDING: frozenset[Result] = frozenset({"blocked", "responded", "error_blocked"})


@dataclass(frozen=True, slots=True)
class FinalConclusion:
    """What the final rules made of one choice."""

    decisions: tuple[Decision, ...] = ()
    verdict: Decision | None = None


class FinalRules:
    """The final rules of a rulebook."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._rules = rulebook.rules_of("final")

    def conclude(
        self, applied: Sequence[AppliedPolicy], values: Mapping[str, float]
    ) -> FinalConclusion:
        """Evaluate the rules of the applied policies on calibrated values by signal key."""
        modes: dict[str, Mode] = {
            each.name: "enforce" if each.enforced else "shadow" for each in applied
        }
        if not any(rule.policy in modes for rule in self._rules):
            return FinalConclusion()
        row_K = [values.get(spec.key, math.nan) for spec in self._rulebook.signals]
        fired_BR, missing_BR = self._rulebook.outcomes("final", np.array([row_K], np.float64))
        decisions: list[Decision] = []
        ending: dict[int, Decision] = {}
        for r, rule in enumerate(self._rules):
            mode = modes.get(rule.policy)
            if mode is None:
                continue
            result = outcome_result(
                rule.kind, mode, bool(fired_BR[0, r]), bool(missing_BR[0, r]), rule.on_error
            )
            decision = rule.decision(mode, result)
            decisions.append(decision)
            if result in ENDING:
                ending[rule.index] = decision
        winner = strongest(self._rulebook.rules[index] for index in ending)
        verdict = None if winner is None else ending[winner.index]
        return FinalConclusion(tuple(decisions), verdict)


ChoiceAction = Literal["allow", "steer", "respond", "block"]
"""What was done to an answer, weakest first. Logs, tags and shadow verdicts do nothing to it."""
ACTIONS: tuple[ChoiceAction, ...] = ("allow", "steer", "respond", "block")


@dataclass(frozen=True, slots=True)
class Termination:
    """How a verdict ends a choice."""

    action: Literal["respond", "block"]
    message: str
    as_error: bool
    """A prompt verdict to be answered with an HTTP error where that is still possible."""
    withholds_all: bool
    """Nothing of the choice is cleared: a verdict on the prompt, or on the whole answer."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one choice."""

    action: ChoiceAction
    ending: Termination | None
    visible: dict[str, Any]
    """The choice's `pilothouse` object."""


class FinalDecision:
    """Settles choices against one rulebook; tells `count_final` of every final rule evaluated."""

    def __init__(
        self, rulebook: Rulebook, count_final: Callable[[Iterable[Decision]], None]
    ) -> None:
        self._rules = {(rule.policy, rule.rule): rule for rule in rulebook.rules}
        self._final = FinalRules(rulebook)
        self._count_final = count_final

    def ending(self, verdict: Decision) -> Termination:
        """How a verdict is to be carried out."""
        rule: CompiledRule | None = self._rules.get((verdict.policy, verdict.rule))
        message = rule.message if rule is not None else None
        prompt_error = rule is not None and rule.as_ == "error" and verdict.decided_in == "prompt"
        return Termination(
            action="respond" if verdict.action == "respond" else "block",
            message=message or DEFAULT_REFUSAL,
            as_error=prompt_error,
            withholds_all=verdict.decided_in != "output",
        )

    def settle(self, admitted: Admitted, entry: RequestDecisions, key: ChoiceKey) -> Settlement:
        """Run the final rules on a choice that has ended, once, and sum it up."""
        log = entry.choices.get(key)
        if log is None and admitted.requirements.ends:
            return self.unaccounted(admitted)
        decisions: list[Decision] = list(log.newest.decisions) if log is not None else []
        verdict = log.verdict if log is not None else None
        if verdict is None:
            values = log.newest.values if log is not None else {}
            final = self._final.conclude(admitted.requirements.applied, values)
            self._count_final(final.decisions)
            decisions += final.decisions
            verdict = final.verdict
        ending = self.ending(verdict) if verdict is not None else None
        action = _action(ending, decisions)
        visible: dict[str, Any] = {"action": action}
        if admitted.caller.may_see_scores:
            visible |= _granted(admitted, entry, key, decisions)
        return Settlement(action, ending, visible)

    def unaccounted(self, admitted: Admitted) -> Settlement:
        """End a choice of which no record tells what the rules concluded.

        It fails closed whatever `on_error` says: a score may be missing by accident, an account
        of the whole choice only by a fault.
        """
        names = {each.name for each in admitted.requirements.applied if each.enforced}
        rules = [rule for rule in self._rules.values() if rule.ends and rule.policy in names]
        decisions = [rule.decision("enforce", "error_blocked") for rule in rules]
        self._count_final(decisions)
        ending = Termination("block", DEFAULT_REFUSAL, as_error=False, withholds_all=True)
        visible: dict[str, Any] = {"action": ending.action}
        if admitted.caller.may_see_scores:
            visible["rules"] = [_rule(each, {}) for each in decisions]
        return Settlement(ending.action, ending, visible)


def _action(ending: Termination | None, decisions: Iterable[Decision]) -> ChoiceAction:
    if ending is not None:
        return ending.action
    return "steer" if any(each.result == "steered" for each in decisions) else "allow"


def _granted(
    admitted: Admitted, entry: RequestDecisions, key: ChoiceKey, decisions: Iterable[Decision]
) -> dict[str, Any]:
    """What only a caller with the grant sees."""
    log = entry.choices.get(key)
    detail = admitted.signed.scores
    features = log.newest.features if log is not None else {}
    shown: dict[str, Any] = {"rules": [_rule(each, features) for each in decisions if _tells(each)]}
    if detail != "none":
        shown["scores"] = dict(sorted(log.newest.values.items())) if log is not None else {}
    if detail == "tokens":
        shown["token_scores"] = [_token(each) for each in (log.token_scores if log else ())]
    shown["steered"] = dict(log.newest.steered_tokens) if log is not None else {}
    return shown


def _tells(decision: Decision) -> bool:
    return decision.result != "allowed"


def _rule(decision: Decision, features: Mapping[str, Sequence[FeatureCode]]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "policy": decision.policy,
        "rule": decision.rule,
        "phase": decision.phase,
        "mode": decision.mode,
        "result": decision.result,
    }
    if decision.at_token is not None:
        shown["at_token"] = decision.at_token
    codes = features.get(f"{decision.policy}/{decision.rule}")
    if codes is not None:
        shown["features"] = [_feature(each) for each in codes]
    return shown


def _feature(code: FeatureCode) -> dict[str, Any]:
    label = {} if code.label is None else {"label": code.label}
    return {"feature": code.feature, **label, "code": code.code}


def _token(scores: TokenScores) -> dict[str, Any]:
    return {"index": scores.index, "token_id": scores.token_id, **scores.scores}
