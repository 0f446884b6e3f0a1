"""What leaves of a step's outputs: passed on, held back, rewritten, annotated with records.

Tokens that were sampled and may not leave yet wait here with their log-probabilities.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pilothouse.engine.vllm import outputs as wire
from pilothouse.engine.vllm.protocols import EngineCoreOutput

if TYPE_CHECKING:
    from pilothouse.engine.scheduler.policy_engine import PolicyEngine, StepDecisions
    from pilothouse.engine.scheduler.request_state import RequestState


@dataclass(slots=True)
class Held:
    """One token, its logprob slice, and when it came."""

    token_id: int
    logprobs: Any
    since: float


@dataclass(slots=True)
class HoldBack:
    """A queue of tokens; `visible_limit` is the client's max_tokens."""

    visible_limit: int
    released: int = 0
    longest_seconds: float = 0.0
    _held: deque[Held] = field(default_factory=deque)

    def push(self, token_ids: list[int], logprobs: Any) -> None:
        """Take in a step's tokens."""
        now = time.monotonic()
        for i, token_id in enumerate(token_ids):
            self._held.append(Held(token_id, wire.slice_logprobs(logprobs, i), now))

    def exchange(self, token_ids: list[int], up_to: int) -> list[int] | None:
        """Push one token that has no logprobs and release the only one held: the steady state.

        None, and nothing done, where more than that is to happen.
        """
        if len(self._held) != 1 or len(token_ids) != 1:
            return None
        held, due, limit = self._held[0], self.released + 1, self.visible_limit
        may_leave = up_to if up_to < limit else limit
        if may_leave != due or held.logprobs is not None:
            return None
        now = time.monotonic()
        waited = now - held.since
        if waited > self.longest_seconds:
            self.longest_seconds = waited
        self.released = due
        # This runs for every request of a step: the entry is written anew and not made anew.
        leaving, held.token_id, held.since = [held.token_id], token_ids[0], now
        return leaving

    def release(self, up_to: int) -> tuple[list[int], Any]:
        """Tokens with index below `up_to` and below the client's limit, with their logprobs."""
        now = time.monotonic()
        leaving: list[Held] = []
        limit = min(up_to, self.visible_limit)
        while self._held and self.released < limit:
            held = self._held.popleft()
            self.longest_seconds = max(self.longest_seconds, now - held.since)
            self.released += 1
            leaving.append(held)
        logprobs = wire.join_logprobs([held.logprobs for held in leaving])
        return [held.token_id for held in leaving], logprobs

    def drop(self) -> int:
        """Forget what is held; how many tokens that were."""
        count = len(self._held)
        self._held.clear()
        return count

    def __len__(self) -> int:
        return len(self._held)


@dataclass(slots=True)
class FilteredOutputs:
    """What leaves in one step, and which requests that ends."""

    outputs: list[EngineCoreOutput] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Requests whose last record leaves: what they hold can be given back."""
    stopped: list[str] = field(default_factory=list)
    """Those among them that a verdict ended, at which vLLM may still be."""


class OutputFilter:
    """Decides what leaves of vLLM's outputs, and changes nothing but them and request states.

    Args:
        request_states: by request id; outputs of other requests pass as they are.
        policy_engine: which tokens are cleared, and what records tell.
    """

    def __init__(
        self, request_states: Mapping[str, RequestState], policy_engine: PolicyEngine
    ) -> None:
        self._request_states = request_states
        self._policy_engine = policy_engine

    def apply(
        self, outputs: list[EngineCoreOutput], decisions: StepDecisions, seconds: float
    ) -> FilteredOutputs:
        """Return what leaves in place of these outputs of one API process.

        Args:
            outputs: vLLM's of this step.
            decisions: what the rules decided in it.
            seconds: a request's share of the time that deciding took.
        """
        filtered = FilteredOutputs()
        for output in outputs:
            state = self._request_states.get(output.request_id)
            if state is None:
                filtered.outputs.append(output)
            elif output.request_id not in decisions.changed and self._passes(output, state):
                state.policy_seconds += seconds
                filtered.outputs.append(output)
            else:
                self._apply_one(output, state, decisions, seconds, filtered)
        return filtered

    def _passes(self, output: EngineCoreOutput, state: RequestState) -> bool:
        """Handle the steady state: a token comes and leaves, or takes the held one's place."""
        if output.finish_reason is not None or not output.new_token_ids or not state.is_steady:
            return False
        held, rules = state.held, state.rules
        if held is None or rules is None:
            return True
        if output.new_logprobs is not None:
            return False
        leaving = held.exchange(output.new_token_ids, self._policy_engine.cleared(rules))
        if leaving is None:
            return False
        output.new_token_ids = leaving
        return True

    def _apply_one(
        self,
        output: EngineCoreOutput,
        state: RequestState,
        decisions: StepDecisions,
        seconds: float,
        filtered: FilteredOutputs,
    ) -> None:
        request_id = output.request_id
        state.policy_seconds += seconds
        rules = state.rules
        if rules is not None and not rules.prompt_done and output.new_token_ids:
            self._policy_engine.decide_unscored_prompt(request_id)
        state.give_one_shot(output)
        state.mark_dirty(request_id in decisions.changed)
        if rules is not None and rules.verdict is not None:
            self._end_by_verdict(output, state, filtered)
            return
        if state.held is not None:
            self._hold_back(output, state)
        if output.finish_reason is not None:
            self._close(output, state, filtered)
        elif not output.new_token_ids:
            state.keep_one_shot(output)
            return
        elif state.should_report():
            wire.carry(state.record(self._policy_engine), output)
        filtered.outputs.append(output)

    def _hold_back(self, output: EngineCoreOutput, state: RequestState) -> None:
        held, rules = state.held, state.rules
        assert held is not None and rules is not None
        held.push(output.new_token_ids, output.new_logprobs)
        up_to = self._policy_engine.cleared(rules)
        if output.finish_reason == wire.STOP:
            beyond = held.released + len(held) > held.visible_limit
            up_to = held.visible_limit
            if beyond:
                output.finish_reason, output.stop_reason = wire.LENGTH, None
        elif output.finish_reason is not None:
            # No run can be completed any more: what was scored may leave.
            up_to = self._policy_engine.scored(rules)
        output.new_token_ids, output.new_logprobs = held.release(up_to)
        if output.finish_reason is not None:
            state.drop_held(held)

    def _end_by_verdict(
        self, output: EngineCoreOutput, state: RequestState, filtered: FilteredOutputs
    ) -> None:
        """Carry a verdict out: what was cleared before it leaves first, then the end."""
        held, rules = state.held, state.rules
        if held is not None and rules is not None:
            held.push(output.new_token_ids, output.new_logprobs)
            token_ids, logprobs = held.release(rules.cleared_at_end)
            held.drop()
            if token_ids:
                filtered.outputs.append(wire.token_output(output, token_ids, logprobs))
        last = wire.verdict_output(output)
        self._close(last, state, filtered)
        filtered.stopped.append(output.request_id)
        filtered.outputs.append(last)

    def _close(
        self, output: EngineCoreOutput, state: RequestState, filtered: FilteredOutputs
    ) -> None:
        """Put the last record on an output. It is made before vLLM lets go of the request."""
        fed = wire.num_fed_tokens(state.request)
        wire.carry(state.closing(self._policy_engine, fed), output)
        filtered.ended.append(output.request_id)
