"""From sealed steering to programs, slots and spans: what the workers are told, and when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pilothouse.edit.positions import FOREVER, Interval, intervals, merged, segments
from pilothouse.engine.passenger import Passenger
from pilothouse.engine.plan import Plan
from pilothouse.engine.programs import EMPTY_SLOT, ProgramSlots
from pilothouse.engine.request_programs import RequestPrograms
from pilothouse.engine.step import PolicySpan, Steering, Upload
from pilothouse.engine.timeline import Edit
from pilothouse.sealed import SealedRequest
from pilothouse.term import SteerTerm

if TYPE_CHECKING:
    from pilothouse.engine.ruling import SteerOrder


class Orders:
    """Compiles requests' steering, seats programs in slots, collects news for the workers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._slots = ProgramSlots(plan.body.limits.max_programs)
        self._waiters: deque[Passenger] = deque()
        self._spans: list[PolicySpan] = []
        self._programs: WeakValueDictionary[tuple[str, tuple[SteerTerm, ...]], RequestPrograms] = (
            WeakValueDictionary()
        )
        """Of live requests, by revision and terms: choices of one request have them in common."""
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
            self._place(passenger, prompt)
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
        """Cut a request's positions anew behind tokens that were just sampled and are marks.

        What lies before them stays as it was, so that a step costs its own tokens.
        """
        assert passenger.compiled is not None
        first = passenger.num_looked_at
        passenger.num_looked_at = len(tokens)
        opened: dict[int, list[Interval]] = {}
        for place, token in enumerate(islice(tokens, first, None), start=first):
            for index in passenger.compiled.waiting:
                where = passenger.compiled.terms[index].positions
                assert where is not None
                if token in (where.after or ()):
                    stop = FOREVER if where.span is None else place + 1 + where.span
                    opened.setdefault(index, []).append((place + 1, stop))
        if not opened:
            return
        since = min(each[0][0] for each in opened.values())
        before = _behind(passenger.places, since)
        for index, fresh in opened.items():
            # Of what came before only the last stretch can reach behind these tokens.
            passenger.places[index] = merged([*passenger.places[index][-1:], *fresh])
        after = _behind(passenger.places, since)
        if after == before:
            return
        self._cut(passenger, after, since)
        told = passenger.steering
        unheard = since if passenger.announced or told is None else min(since, told.since)
        passenger.steering = _steering(passenger, unheard)
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

    def _place(self, passenger: Passenger, prompt: Sequence[int]) -> None:
        terms, count = passenger.sealed.steer, passenger.num_prompt_tokens
        places = [intervals(term, prompt, count) for term in terms]
        if sum(map(len, places)) > passenger.plan.body.limits.max_segments:
            passenger.error = "segments"
            return
        known = passenger.sealed.revision, terms
        compiled = self._programs.get(known)
        if compiled is None:
            compiled = self._programs[known] = RequestPrograms(terms, passenger.plan)
        passenger.compiled = compiled
        passenger.places, passenger.num_looked_at = places, count
        passenger.programs = compiled.reachable(places, count)
        passenger.watches_output = bool(compiled.waiting)
        self._cut(passenger, places, 0)

    def _cut(self, passenger: Passenger, places: Sequence[Sequence[Interval]], since: int) -> None:
        """What a request gets from position `since` on."""
        compiled = passenger.compiled
        assert compiled is not None
        found = ((where, compiled.of(held)) for where, held in segments(places))
        passenger.timeline.request(
            (
                Edit(start, stop, program.digest, program.coefficient, "request")
                for (start, stop), program in found
                if program is not None
            ),
            since,
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


def _behind(places: Sequence[Sequence[Interval]], since: int) -> list[list[Interval]]:
    return [[(max(low, since), high) for low, high in each if high > since] for each in places]


def _steering(passenger: Passenger, since: int = 0) -> Steering:
    """Segments without gaps: stretches where nothing holds get the empty slot."""
    starts, slots, coefficients = [since], [EMPTY_SLOT], [0.0]
    for each in passenger.timeline.requested_from(since):
        starts += [max(each.start, since), each.stop]
        slots += [passenger.slots[each.digest], EMPTY_SLOT]
        coefficients += [each.coefficient, 0.0]
    return Steering(tuple(starts), tuple(slots), tuple(coefficients), since)
