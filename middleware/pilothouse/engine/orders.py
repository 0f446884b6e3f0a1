"""From sealed steering to programs, slots and spans: what the workers are told, and when."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from pilothouse.edit.additive import program_rows
from pilothouse.engine.overflow import overflow_problem
from pilothouse.engine.passenger import ClauseProgram, Passenger
from pilothouse.engine.plan import Plan, digest_of
from pilothouse.engine.programs import EMPTY_SLOT, Program, ProgramSlots
from pilothouse.engine.step import PolicySpan, Steering, Upload
from pilothouse.engine.timeline import FOREVER, Edit
from pilothouse.errors import RequestError
from pilothouse.sealed import SealedRequest, SteerTerm
from pilothouse.types import Clause

if TYPE_CHECKING:
    from pilothouse.engine.ruling import SteerOrder


class Orders:
    """Compiles requests' steering, seats programs in slots, collects news for the workers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._catalogue = plan.catalogue
        self._slots = ProgramSlots(plan.body.limits.max_programs)
        self._waiters: deque[Passenger] = deque()
        self._spans: list[PolicySpan] = []
        self._target_digests = [
            digest_of(
                *(
                    plan.tensors[f"policy/{layer}"][index].tobytes() + layer.to_bytes(4, "little")
                    for layer in target.layers
                )
            )
            for index, target in enumerate(plan.body.policy_targets)
        ]
        self._final_policies = {
            rule.policy for rule in plan.rulebook.rules if rule.phase == "final"
        }

    @property
    def programs_active(self) -> int:
        """Programs that live requests use."""
        return self._slots.active

    def passenger(
        self, sealed: SealedRequest, num_prompt_tokens: int, *, ends_on_text: bool = False
    ) -> Passenger:
        """The state of a request that was just admitted.

        Args:
            ends_on_text: it has stop strings, which are found where text is made and not here.
                What is told of its end must then be known with every token.

        Raises:
            RequestError: its steering names what is not loaded.
        """
        passenger = Passenger(sealed, num_prompt_tokens)
        passenger.on_prompt = self._clause(sealed.steer, "prompt")
        passenger.on_output = self._clause(sealed.steer, "output")
        bounds = ((passenger.on_prompt, 0, num_prompt_tokens),
                  (passenger.on_output, num_prompt_tokens, FOREVER))  # fmt: skip
        for clause, start, stop in bounds:
            if clause is not None:
                digest, coefficient = clause.program.digest, clause.coefficient
                passenger.timeline.add(Edit(start, stop, digest, coefficient, "request"))
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
        prompt, output = passenger.on_prompt, passenger.on_output
        if prompt is not None or output is not None:
            passenger.steering = Steering(
                slots[prompt.program.digest] if prompt else EMPTY_SLOT,
                prompt.coefficient if prompt else 0.0,
                slots[output.program.digest] if output else EMPTY_SLOT,
                output.coefficient if output else 0.0,
                passenger.num_prompt_tokens,
            )
        return True

    def release(self, passenger: Passenger) -> None:
        """The request has ended."""
        self._leave_queue(passenger)
        if passenger.seated:
            self._slots.release({each.digest for each in passenger.programs})

    def steer(self, passenger: Passenger, request_id: str, order: SteerOrder, start: int) -> None:
        """A policy steers from position `start` on; a running span is lengthened instead."""
        stop = start + order.hold_tokens
        running = [
            first
            for (target, first), span in passenger.spans.items()
            if target == order.target
            and span.stop >= start
            and span.coefficient == order.coefficient
        ]
        start = min(running, default=start)
        span = PolicySpan(request_id, order.target, start, stop, order.coefficient)
        passenger.spans[(order.target, start)] = span
        self._spans.append(span)
        digest = self._target_digests[order.target]
        passenger.timeline.add(Edit(start, stop, digest, order.coefficient, "policy"))

    def take_uploads(self) -> list[Upload]:
        """Rows the workers must write before the next forward."""
        return self._slots.take_uploads()

    def take_spans(self) -> list[PolicySpan]:
        """Spans the workers have not heard of."""
        spans, self._spans = self._spans, []
        return spans

    def _clause(self, terms: tuple[SteerTerm, ...], on: Clause) -> ClauseProgram | None:
        holding = tuple(term for term in terms if term.on in (on, "all"))
        compiled = program_rows(holding, self._catalogue)
        if compiled is None:
            return None
        problem = overflow_problem(compiled.coefficient, compiled.rows)
        if problem is not None:
            raise RequestError(f"steer: {problem}", param="steer")
        program = Program(compiled.digest, dict(compiled.rows))
        return ClauseProgram(program, compiled.coefficient)

    def _must_queue(self, passenger: Passenger, now: float) -> bool:
        if not self._waiters or self._waiters[0] is passenger or not passenger.programs:
            return False
        since = self._waiters[0].waiting_since or now
        patience = self._plan.body.limits.max_wait_ms / 2000
        return now - since > patience or not self._slots.resident(passenger.programs)

    def _wait(self, passenger: Passenger, now: float) -> None:
        if not passenger.waited:
            passenger.waited = True
            self._waiters.append(passenger)
        waited_ms = (now - (passenger.waiting_since or now)) * 1000
        if waited_ms > self._plan.body.limits.max_wait_ms:
            passenger.error = "capacity"

    def _leave_queue(self, passenger: Passenger) -> None:
        if passenger.waited and passenger in self._waiters:
            self._waiters.remove(passenger)
