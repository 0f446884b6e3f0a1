"""From sealed steering to programs, slots and spans: what the workers are told, and when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pilothouse.edits.positions import FOREVER, Interval, intervals, merged, segments
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.messages import PolicySpan, Steering, Upload
from pilothouse.engine.scheduler.program_slots import EMPTY_SLOT, ProgramSlots
from pilothouse.engine.scheduler.request_programs import RequestPrograms
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.engine.scheduler.timeline import Edit
from pilothouse.signed_request import SignedRequest
from pilothouse.term import SteerTerm

if TYPE_CHECKING:
    from pilothouse.engine.scheduler.step_decisions import SteerOrder


class SteeringAllocator:
    """Compiles requests' steering, seats programs in slots, collects news for the workers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._slots = ProgramSlots(plan.body.limits.max_programs)
        self._waiters: deque[RequestState] = deque()
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

    def request_state(
        self,
        sealed: SignedRequest,
        prompt: Sequence[int],
        *,
        plan: Plan | None = None,
        ends_on_text: bool = False,
    ) -> RequestState:
        """The state of a request that was just admitted.

        Args:
            prompt: its token ids.
            plan: the one it was sealed under, by default the one of the start.
            ends_on_text: it has stop strings, which are found where text is made and not here.
                What is told of its end must then be known with every token.

        Raises:
            RequestError: its steering names what is not loaded.
        """
        request_state = RequestState(sealed, plan or self._plan, len(prompt))
        if sealed.steer:
            self._place(request_state, prompt)
        final = any(each.name in self._final_policies for each in sealed.policies)
        asked = final or sealed.scores == "summary"
        request_state.tells_always = sealed.scores == "tokens" or (asked and ends_on_text)
        return request_state

    def seat(self, request_state: RequestState) -> bool:
        """Give a request its slots; False while it must wait, with `error` set when too long.

        First come, first served; a request whose programs all lie in slots may pass the first
        waiter until that one has used up half of its patience.
        """
        if request_state.seated:
            return True
        if len(request_state.programs) > self._slots.capacity:
            request_state.error = "capacity"
            return False
        now = time.monotonic()
        if request_state.waiting_since is None:
            request_state.waiting_since = now
        slots = (
            None
            if self._must_queue(request_state, now)
            else self._slots.acquire(request_state.programs)
        )
        if slots is None:
            self._wait(request_state, now)
            return False
        self._leave_queue(request_state)
        request_state.seated = True
        request_state.slots = slots
        if request_state.programs:
            request_state.steering = _steering(request_state)
        return True

    def look_at_output(self, request_state: RequestState, tokens: Sequence[int]) -> None:
        """Cut a request's positions anew behind tokens that were just sampled and are marks.

        What lies before them stays as it was, so that a step costs its own tokens.
        """
        assert request_state.compiled is not None
        first = request_state.num_looked_at
        request_state.num_looked_at = len(tokens)
        opened: dict[int, list[Interval]] = {}
        for place, token in enumerate(islice(tokens, first, None), start=first):
            for index in request_state.compiled.waiting:
                where = request_state.compiled.terms[index].positions
                assert where is not None
                if token in (where.after or ()):
                    stop = FOREVER if where.span is None else place + 1 + where.span
                    opened.setdefault(index, []).append((place + 1, stop))
        if not opened:
            return
        since = min(each[0][0] for each in opened.values())
        before = _behind(request_state.places, since)
        for index, fresh in opened.items():
            # Of what came before only the last stretch can reach behind these tokens.
            request_state.places[index] = merged([*request_state.places[index][-1:], *fresh])
        after = _behind(request_state.places, since)
        if after == before:
            return
        self._cut(request_state, after, since)
        told = request_state.steering
        unheard = since if request_state.announced or told is None else min(since, told.since)
        request_state.steering = _steering(request_state, unheard)
        request_state.announced = False

    def release(self, request_state: RequestState) -> None:
        """The request has ended."""
        self._leave_queue(request_state)
        if request_state.seated:
            self._slots.release({each.digest for each in request_state.programs})

    def steer(
        self, request_state: RequestState, request_id: str, order: SteerOrder, start: int
    ) -> None:
        """A policy steers from position `start` on, wherever no stronger one does."""
        stop = start + order.hold_tokens
        span = PolicySpan(request_id, order.target, start, stop, order.coefficient, order.rank)
        self._spans.append(span)
        request_state.timeline.impose(self._plan.body.policy_targets[order.target].digest, span)

    def take_uploads(self) -> list[Upload]:
        """Rows the workers must write before the next forward."""
        return self._slots.take_uploads()

    def take_spans(self) -> list[PolicySpan]:
        """Spans the workers have not heard of."""
        spans, self._spans = self._spans, []
        return spans

    def _place(self, request_state: RequestState, prompt: Sequence[int]) -> None:
        terms, count = request_state.sealed.steer, request_state.num_prompt_tokens
        places = [intervals(term, prompt, count) for term in terms]
        if sum(map(len, places)) > request_state.plan.body.limits.max_segments:
            request_state.error = "segments"
            return
        known = request_state.sealed.revision, terms
        compiled = self._programs.get(known)
        if compiled is None:
            compiled = self._programs[known] = RequestPrograms(terms, request_state.plan)
        request_state.compiled = compiled
        request_state.places, request_state.num_looked_at = places, count
        request_state.programs = compiled.reachable(places, count)
        request_state.watches_output = bool(compiled.waiting)
        self._cut(request_state, places, 0)

    def _cut(
        self, request_state: RequestState, places: Sequence[Sequence[Interval]], since: int
    ) -> None:
        """What a request gets from position `since` on."""
        compiled = request_state.compiled
        assert compiled is not None
        found = ((where, compiled.of(held)) for where, held in segments(places))
        request_state.timeline.request(
            (
                Edit(start, stop, program.digest, program.coefficient, "request")
                for (start, stop), program in found
                if program is not None
            ),
            since,
        )

    def _must_queue(self, request_state: RequestState, now: float) -> bool:
        if not self._waiters or self._waiters[0] is request_state or not request_state.programs:
            return False
        since = self._waiters[0].waiting_since or now
        patience = self._waiters[0].plan.body.limits.max_wait_ms / 2000
        return now - since > patience or not self._slots.resident(request_state.programs)

    def _wait(self, request_state: RequestState, now: float) -> None:
        if not request_state.waited:
            request_state.waited = True
            self._waiters.append(request_state)
        waited_ms = (now - (request_state.waiting_since or now)) * 1000
        if waited_ms > request_state.plan.body.limits.max_wait_ms:
            request_state.error = "capacity"

    def _leave_queue(self, request_state: RequestState) -> None:
        if request_state.waited and request_state in self._waiters:
            self._waiters.remove(request_state)


def _behind(places: Sequence[Sequence[Interval]], since: int) -> list[list[Interval]]:
    return [[(max(low, since), high) for low, high in each if high > since] for each in places]


def _steering(request_state: RequestState, since: int = 0) -> Steering:
    """Segments without gaps: stretches where nothing holds get the empty slot."""
    starts, slots, coefficients = [since], [EMPTY_SLOT], [0.0]
    for each in request_state.timeline.requested_from(since):
        starts += [max(each.start, since), each.stop]
        slots += [request_state.slots[each.digest], EMPTY_SLOT]
        coefficients += [each.coefficient, 0.0]
    return Steering(tuple(starts), tuple(slots), tuple(coefficients), since)
