"""`final` rules: evaluated here, where an answer ends, on the values of the newest record.

Shape suffixes: B one choice, K signals of the rulebook, R final rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pilothouse.policy.decide import outcome_result, strongest
from pilothouse.policy.rulebook import Rulebook
from pilothouse.record import Decision
from pilothouse.signed_request import AppliedPolicy
from pilothouse.types import Mode, Result

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
