"""The scheduler: vLLM's own, plus signed requests, programs and slots, cache keys and verdicts.

Order of one step: `schedule` collects what changed and sends it to the workers;
`update_from_output` has the policy engine decide before vLLM appends the sampled tokens, and the
output filter change vLLM's outputs after it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import OutputOpening, OutputOpenings, TurnReader
from pilothouse.engine.scheduler.cache_key import EditedBlockHasher
from pilothouse.engine.scheduler.cached_reads import CachedReads, ReadStore
from pilothouse.engine.scheduler.messages import (
    EMISSIONS_ATTRIBUTE,
    STEP_ATTRIBUTE,
    Emissions,
    StepPlan,
)
from pilothouse.engine.scheduler.output_filter import OutputFilter
from pilothouse.engine.scheduler.plan_registry import PlanRegistry
from pilothouse.engine.scheduler.policy_engine import PolicyEngine, StepDecisions
from pilothouse.engine.scheduler.programs import SteeringAllocator
from pilothouse.engine.scheduler.request_state import RequestPhase, RequestState
from pilothouse.engine.scheduler.scored_spans import is_anchored
from pilothouse.engine.scheduler.spec_decode import (
    NOTHING,
    Verified,
    accepted_only,
    sampled_ids,
    verify,
    waves,
)
from pilothouse.engine.vllm import outputs as wire
from pilothouse.engine.vllm.check import check
from pilothouse.engine.vllm.protocols import (
    EngineCoreOutput,
    ModelRunnerOutput,
    Request,
    SchedulerOutput,
)
from pilothouse.engine.vllm.rpc import offer_control
from pilothouse.engine.vllm.scheduler import (
    AsyncScheduler,
    Scheduler,
    SchedulerMixin,
    is_on,
    watch_prefix_cache,
    wrap_block_hasher,
)
from pilothouse.errors import EngineError, RequestError
from pilothouse.log_text import log_lines, log_text
from pilothouse.record import Record
from pilothouse.signed_request import SIGNED_REQUEST_KEY, signing_key, verify_request
from pilothouse.telemetry.logs import log_with_vllm

logger = logging.getLogger(__name__)

FIRST_CLIENT = 0
"""The API process that is always there."""


class Guarded(SchedulerMixin):
    """Mixin over either of vLLM's schedulers."""

    steps_ahead = 0
    """Positions that are fed before a decision on the one before them is known. They are left out
    also where a request was preempted and none is on its way: what it gets is what it gets alone.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plan = Plan.from_additional_config(self.vllm_config.additional_config)
        _ = self._plan.sources  # made here, and not by the first request
        self._key = signing_key()
        self._policy_engine = PolicyEngine(self._plan)
        budget_bytes = self._plan.body.limits.read_cache_mib << 20
        self._cached_reads = CachedReads(
            ReadStore(budget_bytes), self.hash_block_size, self._policy_engine.cursor
        )
        self._keeps_reads = budget_bytes > 0 and is_on(self)
        if self._keeps_reads:
            watch_prefix_cache(self, self._cached_reads)
        self._turns = TurnReader(self._plan.body.turns)
        self._warn_of_unanchored_readouts()
        self._steering = SteeringAllocator(self._plan)
        self._plans = PlanRegistry(
            self._plan, lambda client, revision: self._queue(client, wire.notice(revision))
        )
        self.control = self._plans.handle_rpc
        offer_control()
        self._request_states: dict[str, RequestState] = {}
        self._openings = OutputOpenings(self._turns, self._request_states)
        self._output_filter = OutputFilter(self._request_states, self._policy_engine)
        self._refused: list[str] = []
        self._steered_by_output: set[str] = set()
        """Requests whose own tokens decide where they are steered."""
        self._pending: dict[int, list[EngineCoreOutput]] = {}
        """Outputs of ours, by API process, that have not been attached to a step."""
        self._programs_reported = 0

    def add_request(self, request: Request) -> None:
        """Admit a request that is signed; any other is let in only to be refused."""
        state = self._register(request)
        state.request = request
        self._request_states[request.request_id] = state
        self._plans.add_request(state.signed.revision)
        if state.steers_after_output:
            self._steered_by_output.add(request.request_id)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Return vLLM's schedule with our step plan on it.

        Where a request is steered may depend on its own tokens: then none is fed before it is
        known.
        """
        for request_id in self._steered_by_output:
            self._request_states[request_id].request.spec_token_ids = []
        scheduled = super().schedule(*args, **kwargs)
        self._cached_reads.planned(scheduled.num_scheduled_tokens)
        self._finish_refused()
        step = StepPlan(
            uploads=self._steering.drain_uploads(),
            spans=self._steering.drain_spans(),
            wants_emissions=self._policy_engine.busy,
            cache_life=self._cached_reads.life,
        )
        for request_id in scheduled.num_scheduled_tokens:
            steering = self._request_states[request_id].take_steering()
            if steering is not None:
                step.steering[request_id] = steering
        setattr(scheduled, STEP_ATTRIBUTE, step)
        return scheduled

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        """Decide on what the step read, let vLLM append its tokens, then filter its outputs."""
        started = time.perf_counter()
        emissions: Emissions | None = getattr(model_runner_output, EMISSIONS_ATTRIBUTE, None)
        verified = verify(scheduler_output, model_runner_output, self.requests, self.max_model_len)
        decisions = StepDecisions()
        if emissions is not None:
            if self._policy_engine.busy:
                # Accepted drafts are read in this very step: their anchors are marked before.
                drafted = {name: sampled_ids(model_runner_output, name) for name in verified}
                self._mark(self._openings.find_drafted(drafted))
            emissions = accepted_only(emissions, verified)
            life = getattr(scheduler_output, STEP_ATTRIBUTE).cache_life
            skipped = self._cached_reads.take(emissions, life)
            # Positions that the prefix cache skipped lie before those that the step computed.
            read = (
                waves(emissions, verified)
                if skipped is None
                else chain((skipped,), waves(emissions, verified))
            )
            decisions = self._policy_engine.step(read)
        self._steer(decisions, verified)
        seconds = (time.perf_counter() - started) / max(1, len(self._request_states))
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self._cached_reads.settle()
        for client_outputs in outputs.values():
            if self._steered_by_output:
                self._update_positions(client_outputs.outputs)
            if self._policy_engine.busy:
                self._mark(self._openings.find(client_outputs.outputs))
            filtered = self._output_filter.apply(client_outputs.outputs, decisions, seconds)
            client_outputs.outputs = filtered.outputs
            for request_id in filtered.ended:
                self._remove(request_id)
            for request_id in filtered.stopped:
                self._stop(request_id)
        self._report_programs()
        pending, self._pending = self._pending, {}
        wire.add_outputs(outputs, pending)
        return outputs

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """End requests from outside; the last record of each leaves on an output of its own."""
        finished = super().finish_requests(request_ids, finished_status)
        for request in finished:
            state = self._request_states.get(request.request_id)
            if state is not None:
                record = self._closing(state)
                record.aborted = True
                self._remove(request.request_id)
                self._queue(request.client_index, wire.orphan(record, request.request_id))
        return finished

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Forget the reads of its blocks too: the weights may be others from now on."""
        is_reset = bool(super().reset_prefix_cache(*args, **kwargs))
        if is_reset:
            self._cached_reads.clear()
        return is_reset

    def has_requests(self) -> bool:
        """True also while queued outputs have not been attached to a step."""
        return bool(self._pending) or bool(super().has_requests())

    def may_run(self, request: Request) -> bool:
        """Tell whether a waiting request has all the slots that it needs, or gets them now."""
        state = self._request_states[request.request_id]
        if state.phase is RequestPhase.REFUSED:
            self._refused.append(request.request_id)
            return False
        return self._steering.acquire_slots(state)

    def _register(self, request: Request) -> RequestState:
        decision_id = ""
        try:
            params = request.sampling_params
            extra = (params and params.extra_args) or {}
            signed = verify_request(extra.get(SIGNED_REQUEST_KEY), self._key)
            decision_id = signed.decision_id
            if request.resumable:
                raise RequestError("streamed input is not governed", status=403)
            state = self._steering.register(
                signed,
                request.prompt_token_ids or (),
                plan=self._plans.plan(signed.revision),
                ends_on_text=bool(params and params.stop),
            )
        except RequestError as error:
            logger.warning("refused request %s: %s", log_text(request.request_id), log_lines(error))
            return RequestState.refused("seal", self._plans.newest, decision_id)
        if signed.policies or signed.probes or signed.scores != "none":
            self._score(request, state)
        if state.programs or self._plan.body.policy_targets:
            timeline, block_size = state.timeline, self.hash_block_size
            wrap_block_hasher(request, lambda inner: EditedBlockHasher(inner, timeline, block_size))
        return state

    def _score(self, request: Request, state: RequestState) -> None:
        """Have a request scored, and its tokens held back where a rule may end its answer."""
        authorship = self._turns.read(
            request.prompt_token_ids,
            request.num_prompt_tokens,
            answer_turn=state.signed.answer_turn,
        )
        rules = self._policy_engine.open(request.request_id, state.signed, authorship)
        state.rules, state.authorship = rules, authorship
        in_answer = authorship.num_supplied > 0 and self._policy_engine.reads_answer(rules)
        sees_all = in_answer or self._policy_engine.reads_whole_prompt(rules)
        if self._keeps_reads:
            self._cached_reads.follow(request, sees_all=sees_all)
        elif sees_all:
            request.skip_reading_prefix_cache = True
        if self._policy_engine.holds_output(rules):
            # One token more than the client asked for, so that its last one is fed and scored.
            state.hold_back(request.max_tokens)
            request.max_tokens += 1

    def _mark(self, openings: Iterable[OutputOpening]) -> None:
        for request_id, position in openings:
            self._policy_engine.mark(request_id, position)

    def _steer(self, decisions: StepDecisions, verified: Mapping[str, Verified]) -> None:
        for order in decisions.steers:
            request = self.requests.get(order.request_id)
            state = self._request_states.get(order.request_id)
            if request is None or state is None or state.rules is None:
                continue
            folded = int(self._policy_engine.table.cursor_C[state.rules.row])
            rejected = verified.get(order.request_id, NOTHING).rejected
            start = max(request.num_computed_tokens - rejected, folded + self.steps_ahead)
            self._steering.steer(state, order.request_id, order, start)

    def _update_positions(self, outputs: list[EngineCoreOutput]) -> None:
        """Steer anew where tokens that were just sampled start an edit of what follows them."""
        for output in outputs:
            if output.request_id in self._steered_by_output and output.new_token_ids:
                state = self._request_states[output.request_id]
                self._steering.update_positions(state, state.request.all_token_ids)

    def _warn_of_unanchored_readouts(self) -> None:
        names = [each.key for each in self._plan.signals if is_anchored(each)]
        if names and not self._plan.body.turns.anchors:
            logger.warning(
                "where an assistant's turn opens is not known (%s): %s read the last token of a "
                "prompt, which a client can choose",
                log_text(self._plan.body.turns.missing),
                log_text(", ".join(names)),
            )

    def _stop(self, request_id: str) -> None:
        """End a request that a verdict ended and that vLLM may still be at."""
        request = self.requests.get(request_id)
        if request is not None and not request.is_finished():
            super().finish_requests(request_id, wire.FINISHED_STOPPED)

    def _closing(self, state: RequestState) -> Record:
        """Return a request's last record, of tokens that vLLM still has."""
        return state.closing(self._policy_engine, wire.num_fed_tokens(state.request))

    def _remove(self, request_id: str) -> None:
        """Give back all that a request holds; its last record has been made."""
        state = self._request_states.pop(request_id)
        self._steered_by_output.discard(request_id)
        self._cached_reads.forget(request_id)
        self._steering.release(state)
        self._plans.remove_request(state.signed.revision)
        if state.rules is not None:
            self._policy_engine.close(request_id)

    def _finish_refused(self) -> None:
        refused, self._refused = self._refused, []
        for request_id in refused:
            state = self._request_states.get(request_id)
            if state is None:
                continue
            record = self._closing(state)
            self._remove(request_id)
            super().finish_requests(request_id, wire.FINISHED_ERROR)
            output = wire.final_output(state.request, wire.ERROR, None)
            wire.carry(record, output)
            self._queue(state.request.client_index, output)

    def _report_programs(self) -> None:
        """Tell one API process when the number of programs changed.

        It leaves on an output of its own, since no answer comes after the last request. One
        process hears all of it, in one order, so that an older number never overwrites a newer.
        """
        active = self._steering.programs_active
        if active != self._programs_reported:
            self._programs_reported = active
            self._queue(FIRST_CLIENT, wire.programs_notice(active))

    def _queue(self, client_index: int, output: EngineCoreOutput) -> None:
        self._pending.setdefault(client_index, []).append(output)


class GuardedSyncScheduler(Guarded, Scheduler):
    """For engines without async scheduling."""


class GuardedAsyncScheduler(Guarded, AsyncScheduler):
    """For engines with async scheduling: one more step is in flight when a verdict falls."""

    steps_ahead = 1


class GuardedScheduler:
    """`scheduler_cls` of every guarded server: picks the class by the resolved setting."""

    def __new__(cls, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler for this configuration.

        Raises:
            UnsupportedError: vLLM's scheduler is not as it was when it was tested.
            EngineError: speculative decoding with async scheduling.
        """
        log_with_vllm()
        check("scheduler")
        asynchronous = vllm_config.scheduler_config.async_scheduling
        if asynchronous and vllm_config.speculative_config is not None:
            raise EngineError("speculative decoding with async scheduling is not governed")
        chosen = GuardedAsyncScheduler if asynchronous else GuardedSyncScheduler
        return chosen(vllm_config, *args, **kwargs)
