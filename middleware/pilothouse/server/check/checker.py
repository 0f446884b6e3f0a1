"""Scores the texts of a check: one request of a single token each, which no rule ends.

It goes to the same engine, through the same app and template as a chat, under the policies and the
profile that a chat of the caller's would be under; the engine evaluates every rule and carries none
out. What the model would say next is sampled and thrown away, which is the least that vLLM can be
asked for.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp, Scope

from pilothouse.errors import RequestError
from pilothouse.log_text import log_text
from pilothouse.policy.decide import strongest
from pilothouse.record import CHECK_ID, Decision, Record
from pilothouse.server.admission import CheckTerms
from pilothouse.server.auth import Caller
from pilothouse.server.check.places import CallPlaces
from pilothouse.server.check.texts import CheckAnswer, CheckInput, CheckRequest, CheckResult
from pilothouse.server.reload.plan_snapshot import PlanSnapshot
from pilothouse.server.rescoring import CHAT_PATH, call
from pilothouse.server.response.decisions import (
    ACTIONS,
    ENDING,
    ChoiceAction,
    FinalRules,
    RequestDecisions,
)
from pilothouse.server.state import ServerState
from pilothouse.types import ActionName

logger = logging.getLogger(__name__)

ONLY_CHOICE: Final = (0, 0)
LAST_IN_LINE: Final = 1 << 30
"""Under vLLM's priority scheduling, where smaller is earlier and a request has 0."""
ACTS: Final[frozenset[ActionName]] = frozenset({"block", "respond", "judge", "steer"})
"""What a client of a chat would notice of an enforced rule."""


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks under one plan, for one caller."""

    state: ServerState
    app: ASGIApp
    scope: Scope
    snapshot: PlanSnapshot
    caller: Caller

    async def checked(self, asked: CheckRequest) -> CheckAnswer:
        """Score every input.

        Raises:
            RequestError: a policy that does not apply, an answer on a model whose turns are not
                known, a text that vLLM refuses (its words), one that could not be scored, or too
                many that wait (both 503).
        """
        terms = self.snapshot.admission.check_terms(asked.model, asked.policies, self.caller)
        self._refuse_unreadable(asked.inputs)
        with self.state.check_places.call(len(asked.inputs)) as places:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._result(each, terms, places, asked.wants_scores))
                        for each in asked.inputs
                    ]
            except ExceptionGroup as found:
                raise found.exceptions[0] from None
        names = [each.name for each in terms.applied if each.enforced or self.caller.may_see_scores]
        return CheckAnswer(
            check_id=f"{CHECK_ID}{uuid.uuid4().hex}",
            model=terms.model_label,
            revision=self.snapshot.plan.revision,
            policies=tuple(names),
            results=tuple(task.result() for task in tasks),
            shows_results=self.caller.may_see_scores,
        )

    def _refuse_unreadable(self, inputs: Iterable[CheckInput]) -> None:
        turns = self.snapshot.plan.body.turns
        answer = next((each for each in inputs if each.direction == "answer"), None)
        if answer is not None and not turns.anchors:
            raise RequestError(
                f"{answer.place}: an answer cannot be checked on this model, since where an "
                f"assistant's turn opens is not known: {turns.missing}",
                param=answer.place,
            )

    async def _result(
        self, text: CheckInput, terms: CheckTerms, places: CallPlaces, wants_scores: bool
    ) -> CheckResult:
        sees = self.caller.may_see_scores
        if not text.messages or not (terms.applied or (wants_scores and sees)):
            return CheckResult(text, "allow", None, (), {} if sees and wants_scores else None, 0)
        record, num_tokens = await self._record(text, terms, places)
        decisions, verdict = self._concluded(text, terms, record)
        self.state.metrics.check_decisions(decisions)
        told = self.state.settler.ending(verdict) if verdict is not None else None
        action: ChoiceAction = "allow" if told is None else told.action
        if any(each.result == "steered" for each in decisions):
            action = max(action, "steer", key=ACTIONS.index)
        shown = [
            each for each in decisions if sees or (each.mode == "enforce" and each.action in ACTS)
        ]
        scores = self._scores(text, record) if sees and wants_scores else None
        message = None if told is None else told.message
        signals = {
            (rule.policy, rule.rule): rule.signals for rule in self.snapshot.plan.rulebook.rules
        }
        return CheckResult(text, action, message, tuple(shown), scores, num_tokens, signals)

    async def _record(
        self, text: CheckInput, terms: CheckTerms, places: CallPlaces
    ) -> tuple[Record, int]:
        """The engine's last word on a text, and how many tokens it read."""
        decision_id, body = self.snapshot.admission.as_check(
            terms, text.messages, is_answer=text.direction == "answer"
        )
        if self.state.has_priorities:
            body["priority"] = LAST_IN_LINE
        store = self.state.decision_store
        async with places.one():
            entry = store.open(decision_id)
            try:
                status, answer = await call(self.app, self.scope, CHAT_PATH, body)
            except Exception as error:
                # vLLM's own handler answers such a one outside the gate, in OpenAI's shape.
                kind = type(error).__name__
                logger.error("a text of a check could not be scored: %s", log_text(kind))
                status, answer = 500, None
            finally:
                store.close(decision_id)
        if entry.error is None and status != 200:
            raise _refused(text.place, status, answer)
        record = _closing_record(entry, text.place)
        usage = answer.get("usage") if isinstance(answer, dict) else None
        return record, int((usage or {}).get("prompt_tokens") or 0)

    def _scores(self, text: CheckInput, record: Record) -> dict[str, float]:
        """The values of its direction: of a question, those that read no answer."""
        specs = self.snapshot.plan.signals
        shown = {spec.key for spec in specs if text.direction == "answer" or spec.scope == "prompt"}
        return {key: value for key, value in sorted(record.values.items()) if key in shown}

    def _concluded(
        self, text: CheckInput, terms: CheckTerms, record: Record
    ) -> tuple[list[Decision], Decision | None]:
        """Every decision on a text in its direction, and the one that would have ended it."""
        if text.direction == "prompt":
            decisions = [each for each in record.decisions if each.phase == "prompt"]
            return decisions, self._verdict(decisions)
        self._refuse_unscored_answer(text, terms, record)
        decisions = [each for each in record.decisions if each.phase == "output"]
        verdict = self._verdict(decisions)
        if verdict is None:  # an answer that has been ended has no end of its own
            final = FinalRules(self.snapshot.plan.rulebook).conclude(terms.applied, record.values)
            decisions += final.decisions
            verdict = final.verdict
        return decisions, verdict

    def _verdict(self, decisions: Sequence[Decision]) -> Decision | None:
        ending = {(each.policy, each.rule): each for each in decisions if each.result in ENDING}
        rules = self.snapshot.plan.rulebook.rules
        winner = strongest(rule for rule in rules if (rule.policy, rule.rule) in ending)
        return None if winner is None else ending[winner.policy, winner.rule]

    def _refuse_unscored_answer(self, text: CheckInput, terms: CheckTerms, record: Record) -> None:
        """A template may render an answer so that its turn is not found: that is not silence."""
        rulebook = self.snapshot.plan.rulebook
        names = {each.name for each in terms.applied}
        scopes = {spec.key: spec.scope for spec in rulebook.signals}
        read = {
            key
            for rule in (*rulebook.rules_of("output"), *rulebook.rules_of("final"))
            if rule.policy in names
            for key in rule.signals
            if scopes[key] != "prompt"
        }
        if read and read.isdisjoint(record.values):
            raise RequestError(
                f"{text.place}: no token of the answer was found behind the opening of an "
                "assistant's turn, so that it could not be scored",
                param=text.place,
            )


def _closing_record(entry: RequestDecisions, place: str) -> Record:
    """The last record of a text's only choice.

    Raises:
        RequestError: the engine refused the text, or told nothing of it.
    """
    log = entry.choices.get(ONLY_CHOICE)
    if entry.error is None and log is not None and log.newest.closing:
        return log.newest
    why = entry.error or "it answered without telling what the policies concluded"
    raise RequestError(f"{place}: the engine could not score it: {why}", param=place, status=503)


def _refused(place: str, status: int, answer: Any) -> RequestError:
    """What vLLM says of a text that it does not take, in its own words."""
    error = answer.get("error") if isinstance(answer, dict) else None
    words = error.get("message") if isinstance(error, dict) else None
    if not 400 <= status < 500:
        text = f"{place}: the engine could not score it (status {status})"
        return RequestError(text, param=place, status=503)
    shown = str(words)[:400] if words else f"vLLM refused it (status {status})"
    return RequestError(f"{place}: {shown}", param=place, status=404 if status == 404 else 400)
