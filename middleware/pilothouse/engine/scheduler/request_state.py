"""One admitted request in the scheduler: its seal, programs, timeline, held tokens, last record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pilothouse.edits.positions import Interval, intervals, merged
from pilothouse.edits.program import Program
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import Authorship
from pilothouse.engine.scheduler.hold_back import HoldBack
from pilothouse.engine.scheduler.messages import Steering
from pilothouse.engine.scheduler.request_programs import RequestPrograms
from pilothouse.engine.scheduler.timeline import Timeline
from pilothouse.engine.vllm import outputs as wire
from pilothouse.engine.vllm.protocols import EngineCoreOutput
from pilothouse.record import Record
from pilothouse.signed_request import SignedRequest

if TYPE_CHECKING:
    from pilothouse.engine.scheduler.policy_engine import PolicyEngine
    from pilothouse.engine.scheduler.step_decisions import RequestRules


@dataclass(slots=True, eq=False)
class RequestState:
    """State that lives as long as the request does; two with the same state are not the same."""

    sealed: SignedRequest
    plan: Plan
    """The one it was sealed under, whatever was loaded since."""
    num_prompt_tokens: int
    request: Any = None
    tells_always: bool = False
    compiled: RequestPrograms | None = None
    places: list[list[Interval]] = field(default_factory=list)
    """Where each of its terms holds, as far as is known; of those that wait, the end of it."""
    num_looked_at: int = 0
    """Tokens that were searched for the marks of terms that wait."""
    programs: tuple[Program, ...] = ()
    """The distinct programs it needs slots for, at some position or another."""
    watches_output: bool = False
    """Tokens that are sampled can change where its terms hold."""
    timeline: Timeline = field(default_factory=Timeline)
    slots: dict[str, int] = field(default_factory=dict)
    steering: Steering | None = None
    announced: bool = False
    seated: bool = False
    waiting_since: float | None = None
    waited: bool = False
    watched: RequestRules | None = None
    authorship: Authorship | None = None
    held: HoldBack | None = None
    error: str | None = None
    policy_seconds: float = 0.0
    _told: bool = False
    _untold: bool = False
    _kept: dict[str, Any] = field(default_factory=dict)
    _withheld: int = 0

    @classmethod
    def refused(cls, error: str, plan: Plan, decision_id: str) -> RequestState:
        """A request that is let in only to be turned away."""
        sealed = SignedRequest(decision_id=decision_id, revision=plan.revision)
        return cls(sealed, plan, 0, seated=True, error=error)

    def hold(self, visible_limit: int) -> None:
        """From now on tokens leave only when cleared."""
        self.held = HoldBack(visible_limit)

    def withheld(self, held: HoldBack) -> None:
        """The answer ended with tokens that nobody could clear."""
        beyond = max(0, held.released + len(held) - held.visible_limit)
        self._withheld += max(0, held.drop() - beyond)

    def keep_once(self, output: EngineCoreOutput) -> None:
        """Keep one-shot fields of an output that does not leave."""
        for name in wire.ONE_SHOT:
            value = getattr(output, name)
            if value is not None:
                self._kept[name] = value

    def carry_once(self, output: EngineCoreOutput) -> None:
        """Give the kept one-shot fields to an output."""
        for name, value in self._kept.items():
            if getattr(output, name) is None:
                setattr(output, name, value)
        self._kept.clear()

    def news(self, changed: bool) -> None:
        """Something a record should tell may have happened."""
        self._untold = self._untold or changed or not self._told

    @property
    def steady(self) -> bool:
        """Nothing is to be told, handed on or decided with the next token."""
        watched = self.watched
        return (
            self._told
            and not (self._untold or self.tells_always or self._kept)
            and (watched is None or (watched.prompt_done and watched.verdict is None))
        )

    def tells(self) -> bool:
        """Whether a record goes with the output that leaves now; asking answers it."""
        tell = self.tells_always or self._untold
        self._told, self._untold = True, False
        return tell

    def record(self, policy_engine: PolicyEngine) -> Record:
        """The choice as far as its released tokens go."""
        record = Record(self.sealed.decision_id, self.sealed.revision)
        record.error = self.error
        record.waited = self.waited
        record.policy_seconds = self.policy_seconds
        if self.held is not None:
            record.hold_back_seconds = self.held.longest_seconds
        if self.watched is not None:
            self._add_watched(record, self.watched, policy_engine)
        return record

    def closing(self, policy_engine: PolicyEngine, num_fed_tokens: int) -> Record:
        """The last record, with totals and every rule's outcome.

        A verdict on the output ends it where it fell, whatever came in the same step.
        """
        if self.watched is not None and self.watched.ended_at is not None:
            num_fed_tokens = min(num_fed_tokens, self.watched.ended_at)
        record = self.record(policy_engine)
        record.closing = True
        if self.watched is not None:
            record.outcomes = policy_engine.outcomes(self.watched)
            record.features = policy_engine.features(self.watched)
        record.steered_tokens = self._steered_tokens(policy_engine, num_fed_tokens)
        return record

    def _add_watched(
        self, record: Record, watched: RequestRules, policy_engine: PolicyEngine
    ) -> None:
        table, row = policy_engine.watches, watched.row
        record.values = table.values_of(row)
        record.prompt_done = watched.prompt_done
        record.verdict = watched.verdict
        record.outcomes = list(watched.outcomes.values())
        record.scored_tokens = dict.fromkeys(table.probes, int(table.scored_C[row]))
        reasons = {"prefix_cache": int(table.unscored_C[row]), "length_end": self._withheld}
        record.unscored_tokens = {name: count for name, count in reasons.items() if count}
        released = self.held.released if self.held is not None else 1 << 60
        ready = [each for each in watched.token_scores if each.index < released]
        watched.token_scores = [each for each in watched.token_scores if each.index >= released]
        for each in ready:
            each.token_id = self.request.output_token_ids[each.index]
        record.token_scores = ready

    def _steered_tokens(self, policy_engine: PolicyEngine, num_fed_tokens: int) -> dict[str, int]:
        """Tokens by the name of what steered them; what several steer with one name counts once."""
        held: dict[str, list[Interval]] = {}
        for term in self.sealed.steer:
            held.setdefault(term.name, []).extend(
                intervals(term, self.request.all_token_ids, self.num_prompt_tokens)
            )
        for span in self.timeline.policy_spans():
            held.setdefault(policy_engine.steered_name(span.rank), []).append(
                (span.start, span.stop)
            )
        counts = {
            name: sum(max(0, min(stop, num_fed_tokens) - start) for start, stop in merged(each))
            for name, each in held.items()
        }
        return {name: count for name, count in counts.items() if count}
