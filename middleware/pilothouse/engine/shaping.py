"""What leaves of a step's outputs: passed on, held back, rewritten, annotated with records."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pilothouse.engine.governor import Governor
from pilothouse.engine.passenger import Passenger
from pilothouse.engine.ruling import Ruling
from pilothouse.engine.vllm import outputs as wire
from pilothouse.engine.vllm.protocols import EngineCoreOutput
from pilothouse.record import Record


class Shaping:
    """Shapes vLLM's outputs for the passengers of a scheduler.

    Args:
        passengers: by request id; requests that are not among them are not ours.
        leave: lets go of a request and gives its last record.
        stop: has vLLM end a request that a verdict ended.
    """

    def __init__(
        self,
        passengers: Mapping[str, Passenger],
        governor: Governor,
        leave: Callable[[str, Passenger], Record],
        stop: Callable[[str], None],
    ) -> None:
        self._passengers = passengers
        self._governor = governor
        self._leave = leave
        self._stop = stop

    def shape(
        self, outputs: list[EngineCoreOutput], ruling: Ruling, seconds: float
    ) -> list[EngineCoreOutput]:
        """What leaves in place of these outputs of one API process.

        Args:
            seconds: of this step's deciding, a request's share.
        """
        shaped: list[EngineCoreOutput] = []
        for output in outputs:
            passenger = self._passengers.get(output.request_id)
            if passenger is None:
                shaped.append(output)
            elif output.request_id not in ruling.changed and self._passes(output, passenger):
                passenger.policy_seconds += seconds
                shaped.append(output)
            else:
                shaped.extend(self._shape_one(output, passenger, ruling, seconds))
        return shaped

    def _passes(self, output: EngineCoreOutput, passenger: Passenger) -> bool:
        """The steady state: a token comes and leaves, or takes the place of the one held."""
        if output.finish_reason is not None or not output.new_token_ids or not passenger.steady:
            return False
        held, watched = passenger.held, passenger.watched
        if held is None or watched is None:
            return True
        if output.new_logprobs is not None:
            return False
        leaving = held.exchange(output.new_token_ids, self._governor.cleared(watched))
        if leaving is None:
            return False
        output.new_token_ids = leaving
        return True

    def _shape_one(
        self, output: EngineCoreOutput, passenger: Passenger, ruling: Ruling, seconds: float
    ) -> list[EngineCoreOutput]:
        request_id = output.request_id
        passenger.policy_seconds += seconds
        watched = passenger.watched
        if watched is not None and not watched.prompt_done and output.new_token_ids:
            self._governor.prompt_unscored(request_id)
        passenger.carry_once(output)
        passenger.news(request_id in ruling.changed)
        if watched is not None and watched.verdict is not None:
            return self._end(output, passenger)
        if passenger.held is not None:
            self._hold(output, passenger)
        if output.finish_reason is not None:
            wire.carry(self._leave(request_id, passenger), output)
        elif not output.new_token_ids:
            passenger.keep_once(output)
            return []
        elif passenger.tells():
            wire.carry(passenger.record(self._governor), output)
        return [output]

    def _hold(self, output: EngineCoreOutput, passenger: Passenger) -> None:
        held, watched = passenger.held, passenger.watched
        assert held is not None and watched is not None
        held.push(output.new_token_ids, output.new_logprobs)
        up_to = self._governor.cleared(watched)
        if output.finish_reason == wire.STOP:
            beyond = held.released + len(held) > held.visible_limit
            up_to = held.visible_limit
            if beyond:
                output.finish_reason, output.stop_reason = wire.LENGTH, None
        elif output.finish_reason is not None:
            # No run can be completed any more: what was scored may leave.
            up_to = self._governor.scored(watched)
        output.new_token_ids, output.new_logprobs = held.release(up_to)
        if output.finish_reason is not None:
            passenger.withheld(held)

    def _end(self, output: EngineCoreOutput, passenger: Passenger) -> list[EngineCoreOutput]:
        """Carry a verdict out: what was cleared before leaves first, then the end."""
        held, watched = passenger.held, passenger.watched
        shaped: list[EngineCoreOutput] = []
        if held is not None and watched is not None:
            held.push(output.new_token_ids, output.new_logprobs)
            token_ids, logprobs = held.release(watched.cleared_at_end)
            held.drop()
            if token_ids:
                shaped.append(wire.token_output(output, token_ids, logprobs))
        last = wire.verdict_output(output)
        wire.carry(self._leave(output.request_id, passenger), last)
        self._stop(output.request_id)
        return [*shaped, last]
