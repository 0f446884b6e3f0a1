"""The policy engine: which rules fire after a step, and what they decide for each request.

Shape suffixes: C rows of the score table, B requests evaluated, R rules of one phase.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pilothouse.engine.plan.feature_log import logging_rules
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import Authorship
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.request_state import RequestRules
from pilothouse.engine.scheduler.score_table import ScoreTable, StepScores
from pilothouse.engine.scheduler.supplied_text import SuppliedRules
from pilothouse.engine.scheduler.token_scores import TokenScorer
from pilothouse.engine.worker.policy_edits import policy_steering
from pilothouse.policy.decide import advance_streaks, outcome_result, strongest
from pilothouse.policy.rulebook import CompiledRule
from pilothouse.record import Decision, FeatureCode
from pilothouse.signed_request import SignedRequest
from pilothouse.types import BoolArray, IntArray, Mode, Phase

ENDING = ("blocked", "error_blocked", "responded")
BEFORE_OUTPUT = -1
EVERYTHING = 1 << 60


@dataclass(frozen=True, slots=True)
class SteerOrder:
    """An enforced steer rule fired: hold this target at this strength for that many tokens."""

    request_id: str
    target: int
    coefficient: float
    rank: int
    hold_tokens: int


@dataclass(slots=True)
class StepDecisions:
    """What the rules decided in one step, over all requests."""

    steers: list[SteerOrder] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    """Requests of which a rule decided something new."""


class PolicyEngine:
    """Owns the score table and every request's rules.

    Args:
        plan: whose probes are read and whose policies hold.
    """

    def __init__(self, plan: Plan) -> None:
        self.table = ScoreTable(plan)
        self._scorer = TokenScorer(plan)
        self._plan = plan
        self._rulebook = plan.rulebook
        self._rules: dict[Phase, tuple[CompiledRule, ...]] = {
            "prompt": self._rulebook.rules_of("prompt"),
            "output": self._rulebook.rules_of("output"),
        }
        output = self._rules["output"]
        self._again_R = np.array([rule.kind != "steer" for rule in self._rules["prompt"]], bool)
        """Rules on the prompt that read every opening of an assistant's turn, in the output too;
        one that steers is about the answer that begins, and reads the newest of the prompt."""
        self._needed_R = self._rulebook.streaks_of("output")
        self._leak_R = np.array([rule.leak_tokens for rule in output], np.int64)
        self._active: dict[Phase, BoolArray] = {
            phase: np.zeros((0, len(rules)), bool) for phase, rules in self._rules.items()
        }
        self._holding_CR = np.zeros((0, len(output)), bool)
        self._streaks_CR = np.zeros((0, len(output)), np.int64)
        self._cleared: list[int] = []
        self._supplied = SuppliedRules(self._rulebook)
        self._num_wanting = 0
        self._requests: dict[str, RequestRules] = {}
        self._row_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        scopes = {spec.key: spec.scope for spec in self._rulebook.signals}
        self._num_signals = len(self._rulebook.signals)
        self._prompt_readers = {
            rule.index
            for rule in self._rulebook.rules
            if any(scopes[key] == "prompt" for key in rule.signals)
        }
        self._answer_readers = {
            rule.index
            for rule in self._rulebook.rules
            if any(scopes[key] != "prompt" for key in rule.signals)
        }
        self._steering = policy_steering(plan)
        self._steered_names = [each.name for each in self._steering.values()]
        self._logging = logging_rules(plan)
        self._logging_policies = frozenset(each.rule.policy for each in self._logging)

    @property
    def busy(self) -> bool:
        """True while a request is scored."""
        return bool(self._requests)

    def open(
        self, request_id: str, signed: SignedRequest, prompt: int | Authorship
    ) -> RequestRules:
        """Start to score a request under the policies that its signed request names.

        Args:
            request_id: of vLLM's request.
            signed: what the gate said of it.
            prompt: who wrote which part of it, or how many tokens it has where no turns are known.
        """
        row = self.table.open(prompt, is_check=signed.check)
        self._fit_masks()
        modes: dict[int, Mode] = {}
        enforced = {each.name: each.enforced for each in signed.policies}
        for phase, of_phase in self._rules.items():
            for r, rule in enumerate(of_phase):
                applies = rule.policy in enforced
                self._active[phase][row, r] = applies
                if applies:
                    modes[rule.index] = "enforce" if enforced[rule.policy] else "shadow"
        for r, rule in enumerate(self._rules["output"]):
            ends = rule.ends and modes.get(rule.index) == "enforce"
            self._holding_CR[row, r] = ends and not signed.check
        self._streaks_CR[row] = 0
        self._cleared[row] = 0 if self._holding_CR[row].any() else EVERYTHING
        carried_out = frozenset(name for name, is_enforced in enforced.items() if is_enforced)
        rules = RequestRules(
            row, modes, frozenset(enforced), carried_out, signed.scores == "tokens", signed.check
        )
        self._num_wanting += rules.wants_token_scores
        self._requests[request_id] = rules
        self._row_of[request_id] = row
        self._name_of[row] = request_id
        return rules

    def close(self, request_id: str) -> RequestRules | None:
        """Stop scoring a request; None if it was not scored."""
        rules = self._requests.pop(request_id, None)
        if rules is not None:
            self._num_wanting -= rules.wants_token_scores
            self._row_of.pop(request_id, None)
            del self._name_of[rules.row]
            self._supplied.take(rules.row)
            self.table.close(rules.row)
        return rules

    def holds_output(self, rules: RequestRules) -> bool:
        """Tell whether an enforced output rule can end this request."""
        return bool(self._holding_CR[rules.row].any())

    def reads_whole_prompt(self, rules: RequestRules) -> bool:
        """Tell whether an enforced rule reads or logs the prompt, so no token may be skipped."""
        return (
            rules.is_check
            or not self._logging_policies.isdisjoint(rules.enforced)
            or any(
                mode == "enforce" and index in self._prompt_readers
                for index, mode in rules.modes.items()
            )
        )

    def reads_answer(self, rules: RequestRules) -> bool:
        """Tell whether an enforced rule reads the answer, so that none of it may be skipped."""
        return any(
            mode == "enforce" and index in self._answer_readers
            for index, mode in rules.modes.items()
        ) or any(
            rule.policy in rules.enforced and rule.index in self._answer_readers
            for rule in self._rulebook.rules_of("final")
        )

    def scored(self, rules: RequestRules) -> int:
        """Count the output tokens that were fed and scored."""
        row = rules.row
        return max(0, int(self.table.cursor_C[row] - self.table.prompt_C[row]))

    def cursor(self, request_id: str) -> int | None:
        """Return the first position that is not folded yet; None if none will be."""
        row = self._row_of.get(request_id)
        return None if row is None else int(self.table.cursor_C[row])

    def cleared(self, rules: RequestRules) -> int:
        """Count the output tokens that may leave: scored, and in no run that can still fire a rule.

        This is as of the last `step`, which works it out for the whole table at once.
        """
        return self._cleared[rules.row]

    def _clear(self) -> list[int]:
        scored_C = np.maximum(self.table.cursor_C - self.table.prompt_C, 0)
        running_CR = np.maximum(self._streaks_CR - self._leak_R, 0) * self._holding_CR
        kept_C = running_CR.max(axis=1, initial=0)
        held_C = self._holding_CR.any(axis=1)
        cleared: list[int] = np.where(held_C, np.maximum(scored_C - kept_C, 0), EVERYTHING).tolist()
        return cleared

    def step(self, emissions: Iterable[Emissions]) -> StepDecisions:
        """Fold what a step read, part by part, and evaluate after each every rule it bears on."""
        decisions = StepDecisions()
        for each in emissions:
            self._fold(each, decisions)
        return decisions

    def _fold(self, emissions: Emissions, decisions: StepDecisions) -> None:
        folded = self.table.fold(emissions, self._row_of, wants_spans=self._num_wanting > 0)
        if self._num_wanting:
            self._keep_token_scores(folded)
        for row in folded.prompt_done.tolist():
            self._requests[self._name_of[row]].prompt_done = True
            decisions.changed.add(self._name_of[row])
        self._evaluate("prompt", folded.prompt_done, decisions)
        self._evaluate("prompt", folded.again, decisions, again=True)
        self._judge_supplied(folded, decisions)
        self._evaluate("output", folded.answered, decisions)
        self._cleared = self._clear()

    def _judge_supplied(self, folded: StepScores, decisions: StepDecisions) -> None:
        """Judge by output rules what clients wrote of answers, once their prompts are whole."""
        for each in folded.supplied:
            row = each.row
            active_R, streaks_R = self._active["output"][row], self._streaks_CR[row]
            self._supplied.follow(each, int(self.table.answer_C[row]), active_R, streaks_R)
        for row in folded.prompt_done.tolist():
            met = self._supplied.take(row)
            if met is not None:
                self._conclude("output", row, *met, decisions)

    def decide_unscored_prompt(self, request_id: str) -> None:
        """Let `on_error` of each prompt rule decide on a prompt of which no scores came."""
        rules = self._requests[request_id]
        rules.prompt_done = True
        self._evaluate("prompt", np.array([rules.row], np.int64), StepDecisions())

    def steered_name(self, rank: int) -> str:
        """Return the name of the vector or SAE that a steering rule steers with."""
        return self._steered_names[rank]

    def decisions(self, rules: RequestRules) -> list[Decision]:
        """Return what every prompt and output rule of the request decided, or that it allowed."""
        compiled = self._rulebook.rules
        return [
            rules.decisions.get(index) or compiled[index].decision(mode, "allowed")
            for index, mode in rules.modes.items()
        ]

    def features(self, rules: RequestRules) -> dict[str, list[FeatureCode]]:
        """Return what the request turned on, by each rule that logs it and fired or is final."""
        found = {}
        for each in self._logging:
            rule = each.rule
            fired = rule.phase == "final" or rule.index in rules.decisions
            if fired and rule.policy in rules.policies:
                codes = self.table.features.top(rules.row, each.sae, each.features, each.top)
                found[f"{rule.policy}/{rule.rule}"] = codes
        return found

    def mark(self, request_id: str, position: int) -> None:
        """Mark an output position, not scored yet, with which an assistant's turn opens."""
        row = self._row_of.get(request_id)
        if row is not None:
            self.table.mark(row, position)

    def _evaluate(
        self, phase: Phase, rows_B: IntArray, decisions: StepDecisions, *, again: bool = False
    ) -> None:
        """Evaluate the rules of a phase for some rows.

        Args:
            phase: of the rules.
            rows_B: of the score table.
            decisions: of the step, to which what was concluded is added.
            again: rules on the prompt, where a turn opened in the output; those that steer have
                done so where the answer began.
        """
        if not len(rows_B) or not self._rules[phase]:
            return
        values_BK = self.table.values_CK[rows_B, : self._num_signals]
        active_BR = self._active[phase][rows_B]
        fired_BR, missing_BR = self._rulebook.outcomes(phase, values_BK)
        if phase == "prompt" and not again and not self._again_R.all():
            newest_BK = self.table.values_for_answer(rows_B)[:, : self._num_signals]
            found = self._rulebook.outcomes(phase, newest_BK)
            fired_BR, missing_BR = (
                np.where(self._again_R, every, newest)
                for every, newest in zip((fired_BR, missing_BR), found, strict=True)
            )
        missing_BR &= active_BR
        if phase == "output":
            started_B = self.table.cursor_C[rows_B] > self.table.answer_C[rows_B]
            missing_BR &= started_B[:, None]
            streaks_BR = self._streaks_CR[rows_B]
            fired_BR = advance_streaks(streaks_BR, fired_BR, self._needed_R)
            self._streaks_CR[rows_B] = streaks_BR
        fired_BR &= active_BR
        if again:
            fired_BR &= self._again_R
            missing_BR &= self._again_R
        for b in np.flatnonzero((fired_BR | missing_BR).any(axis=1)):
            self._conclude(phase, int(rows_B[b]), fired_BR[b], missing_BR[b], decisions, again)

    def _conclude(
        self,
        phase: Phase,
        row: int,
        fired_R: BoolArray,
        missing_R: BoolArray,
        decisions: StepDecisions,
        again: bool = False,
    ) -> None:
        request_id = self._name_of[row]
        rules = self._requests[request_id]
        if rules.verdict is not None:
            return
        at: Phase = "output" if again else phase
        at_token = self._at_token(at, row)
        ending: list[CompiledRule] = []
        for r in np.flatnonzero(fired_R | missing_R):
            rule = self._rules[phase][int(r)]
            mode = rules.modes[rule.index]
            result = outcome_result(
                rule.action.action, mode, bool(fired_R[r]), bool(missing_R[r]), rule.on_error
            )
            known = rules.decisions.get(rule.index)
            if known is None or (known.result == "bypassed" and result != "bypassed"):
                decisions.changed.add(request_id)
                rules.decisions[rule.index] = rule.decision(mode, result, at_token)
            if result in ENDING:
                ending.append(rule)
            elif result == "steered" and not rules.is_check:
                decisions.steers.append(self._steer(request_id, rule))
        winner = strongest(ending)
        if winner is not None and not rules.is_check:
            rules.verdict = rules.decisions[winner.index]
            # Tokens accepted behind this one come with the same step and are no longer read.
            del self._row_of[request_id]
            cleared = self._clear()[row]
            if at == "output":
                rules.ended_at = int(self.table.cursor_C[row])
            rules.cleared_at_end = max(0, min(cleared, self.scored(rules) - 1))

    def _steer(self, request_id: str, rule: CompiledRule) -> SteerOrder:
        steering = self._steering[rule.index]
        return SteerOrder(
            request_id, steering.target, steering.coefficient, steering.rank, steering.hold_tokens
        )

    def _at_token(self, phase: Phase, row: int) -> int | None:
        if phase == "prompt":
            return None
        index = int(self.table.cursor_C[row] - self.table.prompt_C[row]) - 1
        return None if index == BEFORE_OUTPUT else index

    def _keep_token_scores(self, folded: StepScores) -> None:
        for rules in self._requests.values():
            span = folded.spans.get(rules.row)
            if rules.wants_token_scores and span is not None:
                prompt = int(self.table.prompt_C[rules.row])
                rules.token_scores += self._scorer.scores(folded.logits_TQ, span, prompt)

    def _fit_masks(self) -> None:
        rows = len(self.table.cursor_C)
        for phase, active in self._active.items():
            self._active[phase] = _taller(active, rows)
        self._holding_CR = _taller(self._holding_CR, rows)
        self._streaks_CR = _taller(self._streaks_CR, rows)
        self._cleared += [0] * (rows - len(self._cleared))


def _taller(array: Any, rows: int) -> Any:
    if len(array) == rows:
        return array
    grown = np.zeros((rows, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
