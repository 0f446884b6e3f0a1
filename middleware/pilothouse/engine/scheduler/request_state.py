"""One admitted request in the scheduler: its phase, programs, timeline, rules and held tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from pilothouse.edits.positions import Interval, intervals, merged
from pilothouse.edits.program import Program
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import Authorship
from pilothouse.engine.scheduler.cache_key import Timeline
from pilothouse.engine.scheduler.messages import Steering
from pilothouse.engine.scheduler.output_filter import HoldBack
from pilothouse.engine.vllm import outputs as wire
from pilothouse.engine.vllm.protocols import EngineCoreOutput
from pilothouse.record import Decision, Record, TokenScores
from pilothouse.signed_request import SignedRequest
from pilothouse.types import Mode

if TYPE_CHECKING:
    from pilothouse.engine.scheduler.policy_engine import PolicyEngine
    from pilothouse.engine.scheduler.programs import RequestPrograms


class RequestPhase(Enum):
    """How far a request is. It only ever moves down this list, as `FOLLOWING` says."""

    WAITING = auto()
    """It waits for vLLM."""
    QUEUED = auto()
    """It steers, and waits for slots that others have."""
    RUNNING = auto()
    """It has its slots, also while vLLM has preempted it. Nothing of its answer has left."""
    ANSWERING = auto()
    """The client's process has a record of it; from now on one goes out when there is news."""
    REFUSED = auto()
    """It is let in only to be turned away, for the reason in `error`."""
    ENDED = auto()
    """Its last record is made and all that it held is given back."""


FOLLOWING: Final[Mapping[RequestPhase, frozenset[RequestPhase]]] = {
    RequestPhase.WAITING: frozenset(
        {RequestPhase.QUEUED, RequestPhase.RUNNING, RequestPhase.REFUSED, RequestPhase.ENDED}
    ),
    RequestPhase.QUEUED: frozenset(
        {RequestPhase.RUNNING, RequestPhase.REFUSED, RequestPhase.ENDED}
    ),
    RequestPhase.RUNNING: frozenset({RequestPhase.ANSWERING, RequestPhase.ENDED}),
    RequestPhase.ANSWERING: frozenset({RequestPhase.ENDED}),
    RequestPhase.REFUSED: frozenset({RequestPhase.ENDED}),
    RequestPhase.ENDED: frozenset(),
}
"""Which phases may come next."""
HOLDS_SLOTS: Final = frozenset({RequestPhase.RUNNING, RequestPhase.ANSWERING})


@dataclass(slots=True)
class RequestRules:
    """One request in the policy engine: its row, its rules, what they decided."""

    row: int
    """In the score table."""
    modes: dict[int, Mode]
    """Rule index -> whether its action is carried out for this request."""
    policies: frozenset[str]
    """Policies that hold for it, in either mode."""
    enforced: frozenset[str]
    wants_token_scores: bool
    is_check: bool = False
    """Every rule is evaluated and none is carried out."""
    prompt_done: bool = False
    """The whole prompt was read and its rules were evaluated."""
    decisions: dict[int, Decision] = field(default_factory=dict)
    """Rule index -> what it decided; a rule that has not fired is absent."""
    verdict: Decision | None = None
    """The decision that ends the request."""
    cleared_at_end: int = 0
    """Output tokens that may still leave when a verdict has fallen."""
    ended_at: int | None = None
    """The first position that was not read, when a verdict on the output has fallen."""
    token_scores: list[TokenScores] = field(default_factory=list)
    """Of tokens that have not left yet."""


@dataclass(slots=True, eq=False)
class RequestState:
    """All that the scheduler keeps of one request; two with equal fields are not the same."""

    signed: SignedRequest
    plan: Plan
    """The plan under which it was signed, whatever was loaded since."""
    num_prompt_tokens: int
    error: str | None = None
    """Why it is refused."""
    request: Any = None
    """vLLM's own object of it."""
    always_reports: bool = False
    """A record goes with every output that leaves."""

    compiled: RequestPrograms | None = None
    places: list[list[Interval]] = field(default_factory=list)
    """Where each term holds, as far as is known; of terms that wait for a token, the end of it."""
    num_positions_known: int = 0
    """Tokens that were searched for those that terms wait for."""
    programs: tuple[Program, ...] = ()
    """The distinct programs for which it needs slots at any position."""
    steers_after_output: bool = False
    """Tokens that are sampled can change where its terms hold."""
    timeline: Timeline = field(default_factory=Timeline)
    slots: dict[str, int] = field(default_factory=dict)
    unsent_steering: Steering | None = None
    """What the workers have not been told of its own edits."""
    queued_since: float | None = None
    """When it began to wait for slots; None where it never had to."""

    rules: RequestRules | None = None
    """What the policy engine keeps of it; None where nothing of it is scored."""
    authorship: Authorship | None = None
    in_turn_heading: bool = False
    """Its output began a turn of which the role is not known yet."""
    held: HoldBack | None = None
    """Tokens that may not leave yet; None where no rule can end the answer."""
    policy_seconds: float = 0.0
    _phase: RequestPhase = RequestPhase.WAITING
    _has_news: bool = False
    _one_shot: dict[str, Any] = field(default_factory=dict)
    """Fields of outputs that did not leave, which vLLM fills once."""
    _num_withheld: int = 0

    @classmethod
    def refused(cls, error: str, plan: Plan, decision_id: str) -> RequestState:
        """Return the state of a request that is let in only to be turned away."""
        signed = SignedRequest(decision_id=decision_id, revision=plan.revision)
        state = cls(signed, plan, 0)
        state.refuse(error)
        return state

    @property
    def phase(self) -> RequestPhase:
        """How far it is."""
        return self._phase

    def advance(self, phase: RequestPhase) -> None:
        """Move on to a phase; every change of phase is one of these.

        Raises:
            RuntimeError: no such phase follows, which is a defect of the scheduler's.
        """
        if phase not in FOLLOWING[self._phase]:
            raise RuntimeError(f"a request that is {self._phase.name} cannot be {phase.name} next")
        self._phase = phase

    def refuse(self, error: str) -> None:
        """Turn the request away when vLLM would next run it."""
        self.advance(RequestPhase.REFUSED)
        self.error = error

    def take_steering(self) -> Steering | None:
        """Return, once, what the workers have not been told of its own edits."""
        unsent, self.unsent_steering = self.unsent_steering, None
        return unsent

    def hold_back(self, visible_limit: int) -> None:
        """Let tokens leave only when the rules have cleared them."""
        self.held = HoldBack(visible_limit)

    def drop_held(self, held: HoldBack) -> None:
        """Count and drop the tokens that nobody could clear before the answer ended."""
        beyond = max(0, held.released + len(held) - held.visible_limit)
        self._num_withheld += max(0, held.drop() - beyond)

    def keep_one_shot(self, output: EngineCoreOutput) -> None:
        """Keep the one-shot fields of an output that does not leave."""
        for name in wire.ONE_SHOT:
            value = getattr(output, name)
            if value is not None:
                self._one_shot[name] = value

    def give_one_shot(self, output: EngineCoreOutput) -> None:
        """Give the kept one-shot fields to an output."""
        for name, value in self._one_shot.items():
            if getattr(output, name) is None:
                setattr(output, name, value)
        self._one_shot.clear()

    def mark_dirty(self, changed: bool) -> None:
        """Report with the next output that leaves, if something changed or nothing has left."""
        self._has_news = self._has_news or changed or self._phase is not RequestPhase.ANSWERING

    @property
    def is_steady(self) -> bool:
        """True while the next token brings nothing to report, to hand on or to decide.

        What is answered had its prompt decided on: nothing leaves before.
        """
        rules = self.rules
        return (
            self._phase is RequestPhase.ANSWERING
            and not (self._has_news or self.always_reports or self._one_shot)
            and (rules is None or rules.verdict is None)
        )

    def should_report(self) -> bool:
        """Tell whether a record goes with the output that leaves now, and take it for sent."""
        report = self.always_reports or self._has_news
        if self._phase is not RequestPhase.ANSWERING:
            self.advance(RequestPhase.ANSWERING)
        self._has_news = False
        return report

    def record(self, policy_engine: PolicyEngine) -> Record:
        """Return the choice as far as its released tokens go."""
        record = Record(self.signed.decision_id, self.signed.revision)
        record.error = self.error
        record.waited = self.queued_since is not None
        record.policy_seconds = self.policy_seconds
        if self.held is not None:
            record.hold_back_seconds = self.held.longest_seconds
        if self.rules is not None:
            self._add_rules(record, self.rules, policy_engine)
        return record

    def closing(self, policy_engine: PolicyEngine, num_fed_tokens: int) -> Record:
        """Return the last record, with totals and what every rule decided.

        A verdict on the output ends the choice where it fell, whatever came in the same step.
        """
        if self.rules is not None and self.rules.ended_at is not None:
            num_fed_tokens = min(num_fed_tokens, self.rules.ended_at)
        record = self.record(policy_engine)
        record.closing = True
        if self.rules is not None:
            record.decisions = policy_engine.decisions(self.rules)
            record.features = policy_engine.features(self.rules)
        record.steered_tokens = self._steered_tokens(policy_engine, num_fed_tokens)
        return record

    def _add_rules(self, record: Record, rules: RequestRules, policy_engine: PolicyEngine) -> None:
        table, row = policy_engine.table, rules.row
        record.values = table.values_of(row)
        record.prompt_done = rules.prompt_done
        record.verdict = rules.verdict
        record.decisions = list(rules.decisions.values())
        record.scored_tokens = dict.fromkeys(table.probes, int(table.scored_C[row]))
        reasons = {"prefix_cache": int(table.unscored_C[row]), "length_end": self._num_withheld}
        record.unscored_tokens = {name: count for name, count in reasons.items() if count}
        released = self.held.released if self.held is not None else 1 << 60
        ready = [each for each in rules.token_scores if each.index < released]
        rules.token_scores = [each for each in rules.token_scores if each.index >= released]
        for each in ready:
            each.token_id = self.request.output_token_ids[each.index]
        record.token_scores = ready

    def _steered_tokens(self, policy_engine: PolicyEngine, num_fed_tokens: int) -> dict[str, int]:
        """Count tokens by the name of what steered them; terms of one name count a token once."""
        held: dict[str, list[Interval]] = {}
        for term in self.signed.steer:
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
