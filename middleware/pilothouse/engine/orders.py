"""From sealed steering to programs, slots and spans: what the workers are told, and when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pilothouse.edit.positions import looks_at_output, segments
from pilothouse.edit.program import Program, compile_program
from pilothouse.engine.fit import unfit
from pilothouse.engine.overflow import overflow_problem
from pilothouse.engine.passenger import Passenger, Segment
from pilothouse.engine.plan import Plan
from pilothouse.engine.programs import EMPTY_SLOT, ProgramSlots
from pilothouse.engine.step import PolicySpan, Steering, Upload
from pilothouse.engine.timeline import Edit
from pilothouse.errors import RequestError
from pilothouse.sealed import SealedRequest
from pilothouse.term import SteerTerm

if TYPE_CHECKING:
    from pilothouse.engine.ruling import SteerOrder


MOST_WAITING = 4
"""Terms that wait for tokens: each doubles the programs that a request may need."""


class Orders:
    """Compiles requests' steering, seats programs in slots, collects news for the workers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._slots = ProgramSlots(plan.body.limits.max_programs)
        self._waiters: deque[Passenger] = deque()
        self._spans: list[PolicySpan] = []
        self._final_policies = {
            rule.policy for rule in plan.rulebook.rules if rule.phase == "final"
        }

    @property
    def programs_active(self) -> int:
        """Programs that live requests use."""
        return self._slots.active

    def passenger(
        self,
        sealed: SealedRequest,
        prompt: Sequence[int],
        *,
        plan: Plan | None = None,
        ends_on_text: bool = False,
    ) -> Passenger:
        """The state of a request that was just admitted.

        Args:
            prompt: its token ids.
            plan: the one it was sealed under, by default the one of the start.
            ends_on_text: it has stop strings, which are found where text is made and not here.
                What is told of its end must then be known with every token.

        Raises:
            RequestError: its steering names what is not loaded.
        """
        passenger = Passenger(sealed, plan or self._plan, len(prompt))
        if sealed.steer:
            self._cut(passenger, prompt)
        final = any(each.name in self._final_policies for each in sealed.policies)
        asked = final or sealed.scores == "summary"
        passenger.tells_always = sealed.scores == "tokens" or (asked and ends_on_text)
        return passenger

    def seat(self, passenger: Passenger) -> bool:
        """Give a request its slots; False while it must wait, with `error` set when too long.

        First come, first served; a request whose programs all lie in slots may pass the first
        waiter until that one has used up half of its patience.
        """
        if passenger.seated:
            return True
        if len(passenger.programs) > self._slots.capacity:
            passenger.error = "capacity"
            return False
        now = time.monotonic()
        if passenger.waiting_since is None:
            passenger.waiting_since = now
        slots = (
            None if self._must_queue(passenger, now) else self._slots.acquire(passenger.programs)
        )
        if slots is None:
            self._wait(passenger, now)
            return False
        self._leave_queue(passenger)
        passenger.seated = True
        passenger.slots = slots
        if passenger.programs:
            passenger.steering = _steering(passenger)
        return True

    def look_at_output(self, passenger: Passenger, tokens: Sequence[int]) -> None:
        """Cut a request's positions anew, now that more of its tokens are known."""
        before = passenger.segments
        self._cut(passenger, tokens)
        if passenger.segments != before:
            passenger.steering = _steering(passenger)
            passenger.announced = False

    def release(self, passenger: Passenger) -> None:
        """The request has ended."""
        self._leave_queue(passenger)
        if passenger.seated:
            self._slots.release({each.digest for each in passenger.programs})

    def steer(self, passenger: Passenger, request_id: str, order: SteerOrder, start: int) -> None:
        """A policy steers from position `start` on, wherever no stronger one does."""
        stop = start + order.hold_tokens
        span = PolicySpan(request_id, order.target, start, stop, order.coefficient, order.rank)
        self._spans.append(span)
        passenger.timeline.impose(self._plan.body.policy_targets[order.target].digest, span)

    def take_uploads(self) -> list[Upload]:
        """Rows the workers must write before the next forward."""
        return self._slots.take_uploads()

    def take_spans(self) -> list[PolicySpan]:
        """Spans the workers have not heard of."""
        spans, self._spans = self._spans, []
        return spans

    def _cut(self, passenger: Passenger, tokens: Sequence[int]) -> None:
        terms, count = passenger.sealed.steer, passenger.num_prompt_tokens
        passenger.segments = tuple(
            Segment(start, stop, program)
            for (start, stop), holding in segments(terms, tokens, count)
            if (program := _program(holding, passenger.plan)) is not None
        )
        if not passenger.programs:
            passenger.watches_output = any(looks_at_output(term) for term in terms)
            if sum(looks_at_output(term) for term in terms) > MOST_WAITING:
                raise RequestError(
                    f"steer: positions.after: got it on output in more than {MOST_WAITING} terms: "
                    "want at most that many",
                    param="steer",
                )
            reachable = _reachable(terms, tokens, count)
            compiled = (_program(holding, passenger.plan) for holding in reachable)
            passenger.programs = tuple(
                {each.digest: each for each in compiled if each is not None}.values()
            )
        passenger.timeline.request(
            Edit(each.start, each.stop, each.program.digest, each.program.coefficient, "request")
            for each in passenger.segments
        )

    def _must_queue(self, passenger: Passenger, now: float) -> bool:
        if not self._waiters or self._waiters[0] is passenger or not passenger.programs:
            return False
        since = self._waiters[0].waiting_since or now
        patience = self._waiters[0].plan.body.limits.max_wait_ms / 2000
        return now - since > patience or not self._slots.resident(passenger.programs)

    def _wait(self, passenger: Passenger, now: float) -> None:
        if not passenger.waited:
            passenger.waited = True
            self._waiters.append(passenger)
        waited_ms = (now - (passenger.waiting_since or now)) * 1000
        if waited_ms > passenger.plan.body.limits.max_wait_ms:
            passenger.error = "capacity"

    def _leave_queue(self, passenger: Passenger) -> None:
        if passenger.waited and passenger in self._waiters:
            self._waiters.remove(passenger)


def _program(terms: tuple[SteerTerm, ...], plan: Plan) -> Program | None:
    program = compile_program(terms, plan.sources)
    if program is None:
        return None
    problem = unfit(program, plan.taps()) or overflow_problem(program)
    if problem is not None:
        raise RequestError(f"steer: {problem}", param="steer")
    return program


def _steering(passenger: Passenger) -> Steering:
    """Segments without gaps: stretches where nothing holds get the empty slot."""
    starts, slots, coefficients = [0], [EMPTY_SLOT], [0.0]
    for each in passenger.segments:
        starts += [each.start, each.stop]
        slots += [passenger.slots[each.program.digest], EMPTY_SLOT]
        coefficients += [each.program.coefficient, 0.0]
    return Steering(tuple(starts), tuple(slots), tuple(coefficients))


def _reachable(
    terms: Sequence[SteerTerm], tokens: Sequence[int], count: int
) -> Iterator[tuple[SteerTerm, ...]]:
    """Every set of terms that can hold together, whatever is sampled."""
    waiting = [term for term in terms if looks_at_output(term)]
    for number in range(1 << len(waiting)):
        held = {id(term) for i, term in enumerate(waiting) if number >> i & 1}
        imagined = [
            term.model_copy(update={"positions": None}) if id(term) in held else term
            for term in terms
            if id(term) in held or not looks_at_output(term)
        ]
        for _, holding in segments(imagined, tokens, count):
            yield holding
