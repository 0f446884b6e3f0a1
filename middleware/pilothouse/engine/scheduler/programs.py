"""Requests' steering: compiled to programs, put into slots of the edit tables, told to the workers.

Each set of a request's terms that can hold together is one program, compiled once; choices of one
request have the same terms, so they share them. Slot 0 is empty and exact. A slot stays until its
last request has ended, then it is kept as long as nobody else needs it, so that a program that
comes back costs no upload.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pilothouse.edits.positions import (
    FOREVER,
    Held,
    Interval,
    intervals,
    looks_at_output,
    merged,
    segments,
)
from pilothouse.edits.program import Program, compile_program
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.validate import capacity_problem, overflow_problem
from pilothouse.engine.scheduler.cache_key import Edit
from pilothouse.engine.scheduler.messages import PolicySpan, Steering, Upload
from pilothouse.engine.scheduler.request_state import HOLDS_SLOTS, RequestPhase, RequestState
from pilothouse.errors import RequestError
from pilothouse.signed_request import SignedRequest
from pilothouse.term import SteerTerm

if TYPE_CHECKING:
    from pilothouse.engine.scheduler.policy_engine import SteerOrder


class RequestPrograms:
    """Programs by which of a request's terms hold; made when first asked for."""

    def __init__(self, terms: Sequence[SteerTerm], plan: Plan) -> None:
        self.terms = tuple(terms)
        self.waiting = tuple(i for i, term in enumerate(terms) if looks_at_output(term))
        """Terms that wait for tokens to be sampled."""
        self._plan = plan
        self._known: dict[Held, Program | None] = {}

    def of(self, held: Held) -> Program | None:
        """What these terms do together; None where that is nothing.

        Raises:
            RequestError: they do not fit the taps.
        """
        if held not in self._known:
            terms = tuple(self.terms[index] for index in held)
            self._known[held] = _program(terms, self._plan)
        return self._known[held]

    def reachable(
        self, places: Sequence[Sequence[Interval]], num_prompt_tokens: int
    ) -> tuple[Program, ...]:
        """Every different program that can be needed, whatever is sampled.

        Args:
            num_prompt_tokens: of the request.
            places: the intervals of each term, as far as the prompt tells.
        """
        found = (self.of(held) for held in self._sets(places, num_prompt_tokens))
        return tuple({each.digest: each for each in found if each is not None}.values())

    def _sets(self, places: Sequence[Sequence[Interval]], count: int) -> Iterator[Held]:
        for (start, _), held in segments(places):
            if start < count:
                yield held
        known = [
            () if index in self.waiting else tuple((max(low, count), high) for low, high in each)
            for index, each in enumerate(places)
        ]
        known = [tuple(each for each in where if each[0] < each[1]) for where in known]
        bases: set[Held] = {held for _, held in segments(known)}
        if merged(each for where in known for each in where) != [(count, FOREVER)]:
            bases.add(())
        for base, taken in product(sorted(bases), _subsets(self.waiting)):
            if base or taken:
                yield tuple(sorted((*base, *taken)))


def _subsets(indices: Sequence[int]) -> list[Held]:
    found: list[Held] = [()]
    for index in indices:
        found += [(*each, index) for each in found]
    return found


def _program(terms: tuple[SteerTerm, ...], plan: Plan) -> Program | None:
    program = compile_program(terms, plan.sources)
    if program is None:
        return None
    problem = capacity_problem(program, plan.taps()) or overflow_problem(program)
    if problem is not None:
        raise RequestError(f"steer: {problem}", param="steer")
    return program


EMPTY_SLOT = 0


class ProgramSlots:
    """Owner of slots 1 .. capacity."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = list(range(capacity, 0, -1))
        self._slot_of: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._uploads: list[Upload] = []

    @property
    def active(self) -> int:
        """Programs that a live request uses."""
        return len(self._users)

    def resident(self, programs: Sequence[Program]) -> bool:
        """Whether all of them lie in slots already."""
        return all(each.digest in self._slot_of for each in programs)

    def acquire(self, programs: Sequence[Program]) -> dict[str, int] | None:
        """Slots for all of them, or None (and nothing taken) when they do not fit now."""
        fresh = {each.digest: each for each in programs if each.digest not in self._slot_of}
        wanted = {each.digest for each in programs}
        evictable = [digest for digest in self._idle if digest not in wanted]
        if len(fresh) > len(self._free) + len(evictable):
            return None
        for program in fresh.values():
            self._load(program, evictable)
        for digest in wanted:
            self._users[digest] = self._users.get(digest, 0) + 1
            self._idle.pop(digest, None)
        return {digest: self._slot_of[digest] for digest in wanted}

    def release(self, digests: set[str]) -> None:
        """One request that used these has ended."""
        for digest in digests:
            self._users[digest] -= 1
            if self._users[digest] == 0:
                del self._users[digest]
                self._idle[digest] = None

    def drain_uploads(self) -> list[Upload]:
        """What workers must write before the next forward; empties the list."""
        uploads, self._uploads = self._uploads, []
        return uploads

    def _load(self, program: Program, evictable: list[str]) -> None:
        if not self._free:
            victim = evictable.pop(0)
            del self._idle[victim]
            self._free.append(self._slot_of.pop(victim))
        slot = self._free.pop()
        self._slot_of[program.digest] = slot
        self._uploads.append(Upload(slot, dict(program.layers)))


class SteeringAllocator:
    """Compiles requests' steering, puts programs into slots and collects what workers need."""

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
        """The number of programs that live requests use."""
        return self._slots.active

    def register(
        self,
        signed: SignedRequest,
        prompt: Sequence[int],
        *,
        plan: Plan | None = None,
        ends_on_text: bool = False,
    ) -> RequestState:
        """Return the state of a request that was just admitted.

        Args:
            signed: what the server says of it.
            prompt: its token ids.
            plan: the one it was signed under, by default the one of the start.
            ends_on_text: it has stop strings, which are found where text is made and not here.
                What is told of its end must then be known with every token.

        Raises:
            RequestError: its steering names what is not loaded.
        """
        state = RequestState(signed, plan or self._plan, len(prompt))
        if signed.steer:
            self._place(state, prompt)
        final = any(each.name in self._final_policies for each in signed.policies)
        asked = final or signed.scores == "summary"
        state.always_reports = signed.scores == "tokens" or (asked and ends_on_text)
        return state

    def acquire_slots(self, state: RequestState) -> bool:
        """Give a request its slots; False while it must wait, and when it waited too long.

        First come, first served; a request whose programs all lie in slots may pass the first
        waiter until that one has used up half of its patience.
        """
        if state.phase in HOLDS_SLOTS:
            return True
        if len(state.programs) > self._slots.capacity:
            state.refuse("capacity")
            return False
        now = time.monotonic()
        slots = None if self._must_queue(state, now) else self._slots.acquire(state.programs)
        if slots is None:
            self._wait(state, now)
            return False
        self._leave_queue(state)
        state.advance(RequestPhase.RUNNING)
        state.slots = slots
        if state.programs:
            state.unsent_steering = _steering(state)
        return True

    def update_positions(self, state: RequestState, tokens: Sequence[int]) -> None:
        """Steer anew behind tokens that were just sampled and for which terms wait.

        What lies before them stays as it was, so that a step costs its own tokens.
        """
        assert state.compiled is not None
        first = state.num_positions_known
        state.num_positions_known = len(tokens)
        opened: dict[int, list[Interval]] = {}
        for place, token in enumerate(islice(tokens, first, None), start=first):
            for index in state.compiled.waiting:
                where = state.compiled.terms[index].positions
                assert where is not None
                if token in (where.after or ()):
                    stop = FOREVER if where.span is None else place + 1 + where.span
                    opened.setdefault(index, []).append((place + 1, stop))
        if not opened:
            return
        since = min(each[0][0] for each in opened.values())
        before = _behind(state.places, since)
        for index, fresh in opened.items():
            # Of what came before only the last stretch can reach behind these tokens.
            state.places[index] = merged([*state.places[index][-1:], *fresh])
        after = _behind(state.places, since)
        if after == before:
            return
        self._cut(state, after, since)
        unsent = state.unsent_steering
        since = since if unsent is None else min(since, unsent.since)
        state.unsent_steering = _steering(state, since)

    def release(self, state: RequestState) -> None:
        """Take back what a request holds, which ends it."""
        self._leave_queue(state)
        if state.phase in HOLDS_SLOTS:
            self._slots.release({each.digest for each in state.programs})
        state.advance(RequestPhase.ENDED)

    def steer(self, state: RequestState, request_id: str, order: SteerOrder, start: int) -> None:
        """Let a policy steer from position `start` on, wherever no stronger one does."""
        stop = start + order.hold_tokens
        span = PolicySpan(request_id, order.target, start, stop, order.coefficient, order.rank)
        self._spans.append(span)
        state.timeline.impose(self._plan.body.policy_targets[order.target].digest, span)

    def drain_uploads(self) -> list[Upload]:
        """Return, once, the rows that the workers must write before the next forward pass."""
        return self._slots.drain_uploads()

    def drain_spans(self) -> list[PolicySpan]:
        """Return, once, the spans that the workers do not know."""
        spans, self._spans = self._spans, []
        return spans

    def _place(self, state: RequestState, prompt: Sequence[int]) -> None:
        terms, count = state.signed.steer, state.num_prompt_tokens
        places = [intervals(term, prompt, count) for term in terms]
        if sum(map(len, places)) > state.plan.body.limits.max_segments:
            state.refuse("segments")
            return
        known = state.signed.revision, terms
        compiled = self._programs.get(known)
        if compiled is None:
            compiled = self._programs[known] = RequestPrograms(terms, state.plan)
        state.compiled = compiled
        state.places, state.num_positions_known = places, count
        state.programs = compiled.reachable(places, count)
        state.steers_after_output = bool(compiled.waiting)
        self._cut(state, places, 0)

    def _cut(self, state: RequestState, places: Sequence[Sequence[Interval]], since: int) -> None:
        """Work out what steers a request from position `since` on."""
        compiled = state.compiled
        assert compiled is not None
        found = ((where, compiled.of(held)) for where, held in segments(places))
        state.timeline.request(
            (
                Edit(start, stop, program.digest, program.coefficient, "request")
                for (start, stop), program in found
                if program is not None
            ),
            since,
        )

    def _must_queue(self, state: RequestState, now: float) -> bool:
        if not self._waiters or self._waiters[0] is state or not state.programs:
            return False
        since = self._waiters[0].queued_since or now
        patience = self._waiters[0].plan.body.limits.max_wait_ms / 2000
        return now - since > patience or not self._slots.resident(state.programs)

    def _wait(self, state: RequestState, now: float) -> None:
        if state.queued_since is None:
            state.advance(RequestPhase.QUEUED)
            state.queued_since = now
            self._waiters.append(state)
        if (now - state.queued_since) * 1000 > state.plan.body.limits.max_wait_ms:
            self._leave_queue(state)
            state.refuse("capacity")

    def _leave_queue(self, state: RequestState) -> None:
        if state.phase is RequestPhase.QUEUED:
            self._waiters.remove(state)


def _behind(places: Sequence[Sequence[Interval]], since: int) -> list[list[Interval]]:
    return [[(max(low, since), high) for low, high in each if high > since] for each in places]


def _steering(state: RequestState, since: int = 0) -> Steering:
    """Return segments without gaps: stretches where nothing holds get the empty slot."""
    starts, slots, coefficients = [since], [EMPTY_SLOT], [0.0]
    for each in state.timeline.requested_from(since):
        starts += [max(each.start, since), each.stop]
        slots += [state.slots[each.digest], EMPTY_SLOT]
        coefficients += [each.coefficient, 0.0]
    return Steering(tuple(starts), tuple(slots), tuple(coefficients), since)
