"""Rules over live scores: which fire after a step, and what follows for each request.

Shape suffixes: C rows of the watch table, B requests evaluated, R rules of one phase.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pilothouse.engine.plan.feature_log import logging_rules
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import Authorship
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.score_table import ScoreTable, StepScores
from pilothouse.engine.scheduler.step_decisions import RequestRules, SteerOrder, StepDecisions
from pilothouse.engine.scheduler.supplied_text import SuppliedRules
from pilothouse.engine.scheduler.token_scores import TokenScorer
from pilothouse.engine.worker.policy_edits import policy_steering
from pilothouse.policy.decide import outcome_result, strongest
from pilothouse.policy.rulebook import CompiledRule, advance_streaks
from pilothouse.record import FeatureCode, RuleOutcome, Verdict
from pilothouse.signed_request import SignedRequest
from pilothouse.types import BoolArray, IntArray, Mode, Phase

ENDING = ("blocked", "error_blocked", "responded")
BEFORE_OUTPUT = -1
EVERYTHING = 1 << 60


class PolicyEngine:
    """Owner of the watch table and of every request's rules."""

    def __init__(self, plan: Plan) -> None:
        self.watches = ScoreTable(plan)
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
        self._watched: dict[str, RequestRules] = {}
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
        """Somebody's scores are wanted."""
        return bool(self._watched)

    def open(
        self, request_id: str, sealed: SignedRequest, prompt: int | Authorship
    ) -> RequestRules:
        """Start watching a request under the policies its seal names.

        Args:
            prompt: who wrote it, or of how many tokens one is that shows no turns.
        """
        row = self.watches.open(prompt)
        self._fit_masks()
        modes: dict[int, Mode] = {}
        enforced = {each.name: each.enforced for each in sealed.policies}
        for phase, rules in self._rules.items():
            for r, rule in enumerate(rules):
                applies = rule.policy in enforced
                self._active[phase][row, r] = applies
                if applies:
                    modes[rule.index] = "enforce" if enforced[rule.policy] else "shadow"
        for r, rule in enumerate(self._rules["output"]):
            self._holding_CR[row, r] = rule.ends and modes.get(rule.index) == "enforce"
        self._streaks_CR[row] = 0
        self._cleared[row] = 0 if self._holding_CR[row].any() else EVERYTHING
        carried_out = frozenset(name for name, is_enforced in enforced.items() if is_enforced)
        watched = RequestRules(
            row, modes, frozenset(enforced), carried_out, sealed.scores == "tokens"
        )
        self._num_wanting += watched.wants_token_scores
        self._watched[request_id] = watched
        self._row_of[request_id] = row
        self._name_of[row] = request_id
        return watched

    def close(self, request_id: str) -> RequestRules | None:
        """Stop watching; None if it was not watched."""
        watched = self._watched.pop(request_id, None)
        if watched is not None:
            self._num_wanting -= watched.wants_token_scores
            self._row_of.pop(request_id, None)
            del self._name_of[watched.row]
            self._supplied.take(watched.row)
            self.watches.close(watched.row)
        return watched

    def holds_output(self, watched: RequestRules) -> bool:
        """Whether an enforced output rule can end this request."""
        return bool(self._holding_CR[watched.row].any())

    def reads_whole_prompt(self, watched: RequestRules) -> bool:
        """Whether an enforced rule sees or tells of the prompt, so that no token may be skipped."""
        return not self._logging_policies.isdisjoint(watched.enforced) or any(
            mode == "enforce" and index in self._prompt_readers
            for index, mode in watched.modes.items()
        )

    def reads_answer(self, watched: RequestRules) -> bool:
        """Whether an enforced rule sees the answer, so that none of it may be skipped."""
        return any(
            mode == "enforce" and index in self._answer_readers
            for index, mode in watched.modes.items()
        ) or any(
            rule.policy in watched.enforced and rule.index in self._answer_readers
            for rule in self._rulebook.rules_of("final")
        )

    def scored(self, watched: RequestRules) -> int:
        """How many output tokens were fed and scored."""
        row = watched.row
        return max(0, int(self.watches.cursor_C[row] - self.watches.prompt_C[row]))

    def cursor(self, request_id: str) -> int | None:
        """The first position of a request that is not folded yet; None if none will be."""
        row = self._row_of.get(request_id)
        return None if row is None else int(self.watches.cursor_C[row])

    def cleared(self, watched: RequestRules) -> int:
        """How many output tokens may leave: scored, and in no run that can still fire a rule.

        As of the last `observe`, which works it out for the whole table at once.
        """
        return self._cleared[watched.row]

    def _clear(self) -> list[int]:
        scored_C = np.maximum(self.watches.cursor_C - self.watches.prompt_C, 0)
        running_CR = np.maximum(self._streaks_CR - self._leak_R, 0) * self._holding_CR
        kept_C = running_CR.max(axis=1, initial=0)
        held_C = self._holding_CR.any(axis=1)
        cleared: list[int] = np.where(held_C, np.maximum(scored_C - kept_C, 0), EVERYTHING).tolist()
        return cleared

    def observe(self, emissions: Emissions) -> StepDecisions:
        """Fold a step's emissions and evaluate every rule they bear on."""
        folded = self.watches.fold(emissions, self._row_of, wants_spans=self._num_wanting > 0)
        if self._num_wanting:
            self._keep_token_scores(folded)
        decisions = StepDecisions()
        for row in folded.prompt_done.tolist():
            self._watched[self._name_of[row]].prompt_done = True
            decisions.changed.add(self._name_of[row])
        self._evaluate("prompt", folded.prompt_done, decisions)
        self._evaluate("prompt", folded.again, decisions, again=True)
        self._judge_supplied(folded, decisions)
        self._evaluate("output", folded.answered, decisions)
        self._cleared = self._clear()
        return decisions

    def _judge_supplied(self, folded: StepScores, decisions: StepDecisions) -> None:
        """Output rules over what clients wrote of answers; carried out when a prompt is whole."""
        for each in folded.supplied:
            row = each.row
            active_R, streaks_R = self._active["output"][row], self._streaks_CR[row]
            self._supplied.follow(each, int(self.watches.answer_C[row]), active_R, streaks_R)
        for row in folded.prompt_done.tolist():
            met = self._supplied.take(row)
            if met is not None:
                self._conclude("output", row, *met, decisions)

    def prompt_unscored(self, request_id: str) -> StepDecisions:
        """The prompt was computed and no scores came: `on_error` of each prompt rule decides."""
        watched = self._watched[request_id]
        watched.prompt_done = True
        decisions = StepDecisions()
        self._evaluate("prompt", np.array([watched.row], np.int64), decisions)
        return decisions

    def steered_name(self, rank: int) -> str:
        """The name of the vector or SAE that a steering rule steers with."""
        return self._steered_names[rank]

    def outcomes(self, watched: RequestRules) -> list[RuleOutcome]:
        """Of every prompt and output rule of the request: fired, or allowed."""
        return [
            watched.outcomes.get(index)
            or RuleOutcome(rule.policy, rule.rule, rule.phase, mode, "allowed")
            for index, mode in watched.modes.items()
            for rule in (self._rulebook.rules[index],)
        ]

    def features(self, watched: RequestRules) -> dict[str, list[FeatureCode]]:
        """What the request turned on, for each rule that logs it and fired or comes at the end."""
        found = {}
        for each in self._logging:
            rule = each.rule
            outcome = watched.outcomes.get(rule.index)
            if rule.policy in watched.policies and (rule.phase == "final" or outcome is not None):
                codes = self.watches.features.top(watched.row, each.sae, each.features, each.top)
                found[f"{rule.policy}/{rule.rule}"] = codes
        return found

    def mark(self, request_id: str, position: int) -> None:
        """Mark an output position, not scored yet, with which an assistant's turn opens."""
        row = self._row_of.get(request_id)
        if row is not None:
            self.watches.mark(row, position)

    def _evaluate(
        self, phase: Phase, rows_B: IntArray, decisions: StepDecisions, *, again: bool = False
    ) -> None:
        """Evaluate the rules of a phase for some rows.

        Args:
            again: rules on the prompt, where a turn opened in the output; those that steer have
                done so where the answer began.
        """
        if not len(rows_B) or not self._rules[phase]:
            return
        values_BK = self.watches.values_CK[rows_B, : self._num_signals]
        active_BR = self._active[phase][rows_B]
        fired_BR, missing_BR = self._rulebook.outcomes(phase, values_BK)
        if phase == "prompt" and not again and not self._again_R.all():
            newest_BK = self.watches.values_for_answer(rows_B)[:, : self._num_signals]
            found = self._rulebook.outcomes(phase, newest_BK)
            fired_BR, missing_BR = (
                np.where(self._again_R, every, newest)
                for every, newest in zip((fired_BR, missing_BR), found, strict=True)
            )
        missing_BR &= active_BR
        if phase == "output":
            started_B = self.watches.cursor_C[rows_B] > self.watches.answer_C[rows_B]
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
        watched = self._watched[request_id]
        if watched.verdict is not None:
            return
        at: Phase = "output" if again else phase
        at_token = self._at_token(at, row)
        ending: list[CompiledRule] = []
        for r in np.flatnonzero(fired_R | missing_R):
            rule = self._rules[phase][int(r)]
            mode = watched.modes[rule.index]
            result = outcome_result(
                rule.action.action, mode, bool(fired_R[r]), bool(missing_R[r]), rule.on_error
            )
            known = watched.outcomes.get(rule.index)
            if known is None or (known.result == "bypassed" and result != "bypassed"):
                decisions.changed.add(request_id)
                watched.outcomes[rule.index] = RuleOutcome(
                    rule.policy, rule.rule, phase, mode, result, at_token
                )
            if result in ENDING:
                watched.outcomes[rule.index].result = result
                ending.append(rule)
            elif result == "steered":
                decisions.steers.append(self._steer(request_id, rule))
        winner = strongest(ending)
        if winner is not None:
            result = watched.outcomes[winner.index].result
            watched.verdict = Verdict(winner.action.action, winner.policy, winner.rule, at, result)
            # Tokens accepted behind this one come with the same step and are no longer read.
            del self._row_of[request_id]
            cleared = self._clear()[row]
            if at == "output":
                watched.ended_at = int(self.watches.cursor_C[row])
            watched.cleared_at_end = max(0, min(cleared, self.scored(watched) - 1))

    def _steer(self, request_id: str, rule: CompiledRule) -> SteerOrder:
        steering = self._steering[rule.index]
        return SteerOrder(
            request_id, steering.target, steering.coefficient, steering.rank, steering.hold_tokens
        )

    def _at_token(self, phase: Phase, row: int) -> int | None:
        if phase == "prompt":
            return None
        index = int(self.watches.cursor_C[row] - self.watches.prompt_C[row]) - 1
        return None if index == BEFORE_OUTPUT else index

    def _keep_token_scores(self, folded: StepScores) -> None:
        for watched in self._watched.values():
            span = folded.spans.get(watched.row)
            if watched.wants_token_scores and span is not None:
                prompt = int(self.watches.prompt_C[watched.row])
                watched.token_scores += self._scorer.scores(folded.logits_TQ, span, prompt)

    def _fit_masks(self) -> None:
        rows = len(self.watches.cursor_C)
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
