"""What leaves of a step's outputs: passed on, held back, rewritten, annotated with records."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pilothouse.engine.scheduler.policy_engine import PolicyEngine
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.engine.scheduler.step_decisions import StepDecisions
from pilothouse.engine.vllm import outputs as wire
from pilothouse.engine.vllm.protocols import EngineCoreOutput
from pilothouse.record import Record


class OutputFilter:
    """Decides what leaves of vLLM's outputs of a scheduler's requests.

    Args:
        request_states: by request id; requests that are not among them are not ours.
        leave: lets go of a request and gives its last record.
        stop: has vLLM end a request that a verdict ended.
    """

    def __init__(
        self,
        request_states: Mapping[str, RequestState],
        policy_engine: PolicyEngine,
        leave: Callable[[str, RequestState], Record],
        stop: Callable[[str], None],
    ) -> None:
        self._request_states = request_states
        self._policy_engine = policy_engine
        self._leave = leave
        self._stop = stop

    def shape(
        self, outputs: list[EngineCoreOutput], decisions: StepDecisions, seconds: float
    ) -> list[EngineCoreOutput]:
        """What leaves in place of these outputs of one API process.

        Args:
            seconds: of this step's deciding, a request's share.
        """
        shaped: list[EngineCoreOutput] = []
        for output in outputs:
            request_state = self._request_states.get(output.request_id)
            if request_state is None:
                shaped.append(output)
            elif output.request_id not in decisions.changed and self._passes(output, request_state):
                request_state.policy_seconds += seconds
                shaped.append(output)
            else:
                shaped.extend(self._shape_one(output, request_state, decisions, seconds))
        return shaped

    def _passes(self, output: EngineCoreOutput, request_state: RequestState) -> bool:
        """The steady state: a token comes and leaves, or takes the place of the one held."""
        if output.finish_reason is not None or not output.new_token_ids or not request_state.steady:
            return False
        held, watched = request_state.held, request_state.watched
        if held is None or watched is None:
            return True
        if output.new_logprobs is not None:
            return False
        leaving = held.exchange(output.new_token_ids, self._policy_engine.cleared(watched))
        if leaving is None:
            return False
        output.new_token_ids = leaving
        return True

    def _shape_one(
        self,
        output: EngineCoreOutput,
        request_state: RequestState,
        decisions: StepDecisions,
        seconds: float,
    ) -> list[EngineCoreOutput]:
        request_id = output.request_id
        request_state.policy_seconds += seconds
        watched = request_state.watched
        if watched is not None and not watched.prompt_done and output.new_token_ids:
            self._policy_engine.prompt_unscored(request_id)
        request_state.carry_once(output)
        request_state.news(request_id in decisions.changed)
        if watched is not None and watched.verdict is not None:
            return self._end(output, request_state)
        if request_state.held is not None:
            self._hold(output, request_state)
        if output.finish_reason is not None:
            wire.carry(self._leave(request_id, request_state), output)
        elif not output.new_token_ids:
            request_state.keep_once(output)
            return []
        elif request_state.tells():
            wire.carry(request_state.record(self._policy_engine), output)
        return [output]

    def _hold(self, output: EngineCoreOutput, request_state: RequestState) -> None:
        held, watched = request_state.held, request_state.watched
        assert held is not None and watched is not None
        held.push(output.new_token_ids, output.new_logprobs)
        up_to = self._policy_engine.cleared(watched)
        if output.finish_reason == wire.STOP:
            beyond = held.released + len(held) > held.visible_limit
            up_to = held.visible_limit
            if beyond:
                output.finish_reason, output.stop_reason = wire.LENGTH, None
        elif output.finish_reason is not None:
            # No run can be completed any more: what was scored may leave.
            up_to = self._policy_engine.scored(watched)
        output.new_token_ids, output.new_logprobs = held.release(up_to)
        if output.finish_reason is not None:
            request_state.withheld(held)

    def _end(self, output: EngineCoreOutput, request_state: RequestState) -> list[EngineCoreOutput]:
        """Carry a verdict out: what was cleared before leaves first, then the end."""
        held, watched = request_state.held, request_state.watched
        shaped: list[EngineCoreOutput] = []
        if held is not None and watched is not None:
            held.push(output.new_token_ids, output.new_logprobs)
            token_ids, logprobs = held.release(watched.cleared_at_end)
            held.drop()
            if token_ids:
                shaped.append(wire.token_output(output, token_ids, logprobs))
        last = wire.verdict_output(output)
        wire.carry(self._leave(output.request_id, request_state), last)
        self._stop(output.request_id)
        return [*shaped, last]
