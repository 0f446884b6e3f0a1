"""The scheduler: vLLM's own, plus the seal, programs and slots, cache identity, verdicts.

Order of one step: `schedule` plans what changed and sends it to the workers; `update_from_output`
folds the emissions and decides before vLLM appends the sampled tokens, then shapes its outputs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import TurnReader
from pilothouse.engine.scheduler.cache_key import EditedBlockHasher
from pilothouse.engine.scheduler.cached_reads import CachedReads
from pilothouse.engine.scheduler.messages import (
    EMISSIONS_ATTRIBUTE,
    STEP_ATTRIBUTE,
    Emissions,
    StepPlan,
)
from pilothouse.engine.scheduler.output_filter import OutputFilter
from pilothouse.engine.scheduler.output_openings import OutputOpenings
from pilothouse.engine.scheduler.plan_registry import PlanRegistry
from pilothouse.engine.scheduler.policy_engine import PolicyEngine
from pilothouse.engine.scheduler.read_store import ReadStore
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.engine.scheduler.scored_spans import is_anchored
from pilothouse.engine.scheduler.spec_decode import NOTHING, Verified, settled, verify, waves
from pilothouse.engine.scheduler.steering_allocator import SteeringAllocator
from pilothouse.engine.scheduler.step_decisions import StepDecisions
from pilothouse.engine.vllm import outputs as wire
from pilothouse.engine.vllm.check import check
from pilothouse.engine.vllm.prefix_cache import is_on, watch_prefix_cache
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
        self._say_what_is_not_anchored()
        self._orders = SteeringAllocator(self._plan)
        self._revisions = PlanRegistry(
            self._plan, lambda client, revision: self._queue(client, wire.notice(revision))
        )
        self.control = self._revisions.obey
        offer_control()
        self._request_states: dict[str, RequestState] = {}
        self._openings = OutputOpenings(self._turns, self._request_states, self._policy_engine.mark)
        self._shaping = OutputFilter(
            self._request_states, self._policy_engine, self._leave, self._stop
        )
        self._refused: list[str] = []
        self._looking: set[str] = set()
        """Requests whose own tokens decide where they are steered."""
        self._pending: dict[int, list[EngineCoreOutput]] = {}
        self._programs_told = 0

    def add_request(self, request: Request) -> None:
        """Admit a request under a valid seal; anything else is let in only to be refused."""
        request_state = self._board(request)
        request_state.request = request
        self._request_states[request.request_id] = request_state
        self._revisions.enter(request_state.sealed.revision)
        if request_state.watches_output:
            self._looking.add(request.request_id)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's schedule with our step plan on it.

        Where a request is steered may hang on its own tokens: then none is fed before it is known.
        """
        for request_id in self._looking:
            self._request_states[request_id].request.spec_token_ids = []
        scheduled = super().schedule(*args, **kwargs)
        self._cached_reads.planned(scheduled.num_scheduled_tokens)
        self._finish_refused()
        step = StepPlan(
            uploads=self._orders.take_uploads(),
            spans=self._orders.take_spans(),
            wants_emissions=self._policy_engine.busy,
            cache_life=self._cached_reads.life,
        )
        for request_id in scheduled.num_scheduled_tokens:
            request_state = self._request_states[request_id]
            if request_state.steering is not None and not request_state.announced:
                request_state.announced = True
                step.steering[request_id] = request_state.steering
        setattr(scheduled, STEP_ATTRIBUTE, step)
        return scheduled

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        """Fold, decide, let vLLM append, then hold back, rewrite and annotate its outputs."""
        started = time.perf_counter()
        emissions: Emissions | None = getattr(model_runner_output, EMISSIONS_ATTRIBUTE, None)
        verified = verify(scheduler_output, model_runner_output, self.requests, self.max_model_len)
        decisions = StepDecisions()
        if emissions is not None and self._policy_engine.busy:
            self._openings.find_drafted(model_runner_output, verified)
        if emissions is not None:
            emissions = settled(emissions, verified)
            life = getattr(scheduler_output, STEP_ATTRIBUTE).cache_life
            skipped = self._cached_reads.take(emissions, life)
            if skipped is not None:
                decisions.add(self._policy_engine.observe(skipped))
            for wave in waves(emissions, verified):
                decisions.add(self._policy_engine.observe(wave))
        self._steer(decisions, verified)
        seconds = (time.perf_counter() - started) / max(1, len(self._request_states))
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self._cached_reads.settle()
        for client_outputs in outputs.values():
            if self._looking:
                self._look(client_outputs.outputs)
            if self._policy_engine.busy:
                self._openings.find(client_outputs.outputs)
            client_outputs.outputs = self._shaping.shape(client_outputs.outputs, decisions, seconds)
        self._tell_programs()
        pending, self._pending = self._pending, {}
        wire.add_outputs(outputs, pending)
        return outputs

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """End requests from outside; the last record of each leaves by itself."""
        finished = super().finish_requests(request_ids, finished_status)
        for request in finished:
            request_state = self._request_states.get(request.request_id)
            if request_state is not None:
                record = self._leave(request.request_id, request_state)
                record.aborted = True
                self._queue(request.client_index, wire.orphan(record, request.request_id))
        return finished

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Forget what was read with it: the weights may be others from now on."""
        is_reset = bool(super().reset_prefix_cache(*args, **kwargs))
        if is_reset:
            self._cached_reads.clear()
        return is_reset

    def has_requests(self) -> bool:
        """Also while outputs of ours wait for a step to ride on."""
        return bool(self._pending) or bool(super().has_requests())

    def may_run(self, request: Request) -> bool:
        """Tell whether a waiting request has all the slots that it needs, or gets them now."""
        request_state = self._request_states[request.request_id]
        if request_state.error is not None:
            self._refused.append(request.request_id)
            return False
        return self._orders.seat(request_state)

    def _board(self, request: Request) -> RequestState:
        decision_id = ""
        try:
            params = request.sampling_params
            extra = (params and params.extra_args) or {}
            sealed = verify_request(extra.get(SIGNED_REQUEST_KEY), self._key)
            decision_id = sealed.decision_id
            if request.resumable:
                raise RequestError("streamed input is not governed", status=403)
            request_state = self._orders.request_state(
                sealed,
                request.prompt_token_ids or (),
                plan=self._revisions.plan(sealed.revision),
                ends_on_text=bool(params and params.stop),
            )
        except RequestError as error:
            logger.warning("refused request %s: %s", log_text(request.request_id), log_lines(error))
            return RequestState.refused("seal", self._revisions.newest, decision_id)
        if sealed.policies or sealed.probes or sealed.scores != "none":
            self._watch(request, request_state)
        if request_state.programs or self._plan.body.policy_targets:
            timeline, block_size = request_state.timeline, self.hash_block_size
            wrap_block_hasher(request, lambda inner: EditedBlockHasher(inner, timeline, block_size))
        return request_state

    def _watch(self, request: Request, request_state: RequestState) -> None:
        authorship = self._turns.read(request.prompt_token_ids, request.num_prompt_tokens)
        watched = self._policy_engine.open(request.request_id, request_state.sealed, authorship)
        request_state.watched, request_state.authorship = watched, authorship
        in_answer = authorship.num_supplied > 0 and self._policy_engine.reads_answer(watched)
        sees_all = in_answer or self._policy_engine.reads_whole_prompt(watched)
        if self._keeps_reads:
            self._cached_reads.follow(request, sees_all=sees_all)
        elif sees_all:
            request.skip_reading_prefix_cache = True
        if self._policy_engine.holds_output(watched):
            # One token more than the client asked for, so that its last one is fed and scored.
            request_state.hold(request.max_tokens)
            request.max_tokens += 1

    def _steer(self, decisions: StepDecisions, verified: Mapping[str, Verified]) -> None:
        for order in decisions.steers:
            request = self.requests.get(order.request_id)
            request_state = self._request_states.get(order.request_id)
            if request is None or request_state is None or request_state.watched is None:
                continue
            folded = int(self._policy_engine.watches.cursor_C[request_state.watched.row])
            rejected = verified.get(order.request_id, NOTHING).rejected
            start = max(request.num_computed_tokens - rejected, folded + self.steps_ahead)
            self._orders.steer(request_state, order.request_id, order, start)

    def _look(self, outputs: list[EngineCoreOutput]) -> None:
        """Tokens that were just sampled may start an edit of what follows them."""
        for output in outputs:
            if output.request_id in self._looking and output.new_token_ids:
                request_state = self._request_states[output.request_id]
                self._orders.look_at_output(request_state, request_state.request.all_token_ids)

    def _say_what_is_not_anchored(self) -> None:
        names = [each.key for each in self._plan.signals if is_anchored(each)]
        if names and not self._plan.body.turns.anchors:
            logger.warning(
                "where an assistant's turn opens is not known (%s): %s read the last token of a "
                "prompt, which a client can choose",
                log_text(self._plan.body.turns.missing),
                log_text(", ".join(names)),
            )

    def _stop(self, request_id: str) -> None:
        """A verdict ended a request that vLLM may still be at."""
        request = self.requests.get(request_id)
        if request is not None and not request.is_finished():
            super().finish_requests(request_id, wire.FINISHED_STOPPED)

    def _leave(self, request_id: str, request_state: RequestState) -> Record:
        """Let go of all that a request held; its last record."""
        request = self._request_states.pop(request_id).request
        self._looking.discard(request_id)
        self._openings.forget(request_id)
        self._cached_reads.forget(request_id)
        record = request_state.closing(self._policy_engine, wire.num_fed_tokens(request))
        self._orders.release(request_state)
        self._revisions.leave(request_state.sealed.revision)
        if request_state.watched is not None:
            self._policy_engine.close(request_id)
        return record

    def _finish_refused(self) -> None:
        refused, self._refused = self._refused, []
        for request_id in refused:
            request_state = self._request_states.get(request_id)
            if request_state is None:
                continue
            record = self._leave(request_id, request_state)
            super().finish_requests(request_id, wire.FINISHED_ERROR)
            output = wire.final_output(request_state.request, wire.ERROR, None)
            wire.carry(record, output)
            self._queue(request_state.request.client_index, output)

    def _tell_programs(self) -> None:
        """Tell one process of a change, by itself: with the last request no answer comes after it.

        One process and one order, so that an older number never overwrites a newer one.
        """
        active = self._orders.programs_active
        if active != self._programs_told:
            self._programs_told = active
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
