"""The worker: vLLM's own, plus taps, their buffers, and emissions on each step's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.logger import init_logger

from pilothouse.engine.architecture import check_model, open_decoder
from pilothouse.engine.architecture.forward import NUM_TOKENS
from pilothouse.engine.buffers import TapBuffers
from pilothouse.engine.compat import v0_32 as compat
from pilothouse.engine.plan import Plan
from pilothouse.engine.snapshot import Snapshot
from pilothouse.engine.stage import part_of, relay_reads
from pilothouse.engine.steering_state import SteeringState
from pilothouse.engine.step import EMISSIONS_ATTRIBUTE, STEP_ATTRIBUTE, StepPlan
from pilothouse.engine.tap import ReadColumns, install_tap
from pilothouse.errors import EngineError
from pilothouse.types import IntArray

logger = init_logger(__name__)

EMPTY_PLAN = StepPlan()


class Instruments:
    """Everything of ours in one worker: buffers, taps, steering state, the step's emissions."""

    def __init__(self, plan: Plan, vllm_config: Any, runner: Any) -> None:
        self._plan = plan
        body = plan.body
        device = torch.device(runner.device)
        model = compat.loaded_model(runner)
        compat.add_empty_adapter(model)
        with compat.without_adapters(runner, NUM_TOKENS):
            decoder = open_decoder(model, vllm_config)
            _check_model(plan, vllm_config, len(decoder.blocks))
            check_model(model, vllm_config, decoder, [(tap.layer, tap.site) for tap in body.taps])
        plan = part_of(plan, decoder)
        body = plan.body
        self._here, self._layers = body.taps, decoder.local_layers()
        self._buffers = TapBuffers.allocate(
            plan, max_tokens=compat.max_step_tokens(vllm_config), device=device
        )
        self._state = SteeringState(self._buffers, len(body.policy_targets))
        self._snapshot = Snapshot(self._buffers.scores_NE)
        self._wants_emissions = False
        self._replies = compat.is_last_stage() and get_tensor_model_parallel_rank() == 0
        points = {tap: decoder.point(tap.layer, tap.site) for tap in body.taps}
        for tap in sorted(body.taps, key=lambda each: points[each].order):
            columns = None
            if tap.read_stop > tap.read_start:
                reads_DE = torch.from_numpy(
                    np.ascontiguousarray(plan.tensors[f"reads/{tap.layer}/{tap.site}"])
                )
                columns = ReadColumns(reads_DE.to(device), tap.read_start, tap.read_stop)
            install_tap(points[tap], tap, self._buffers, columns)
        compat.on_step(runner, self._on_step)
        relay_reads(runner, self._buffers.scores_NE, lambda: self._wants_emissions)

    def begin(self, scheduler_output: Any) -> None:
        """Take in what the scheduler sent with a step."""
        step: StepPlan = getattr(scheduler_output, STEP_ATTRIBUTE, EMPTY_PLAN)
        self._wants_emissions = step.wants_emissions
        self._state.apply(step, scheduler_output.finished_req_ids)

    def finish(self, output: Any, runner: Any) -> Any:
        """Attach the step's emissions to its output, where somebody asked for them."""
        if output is None or not self._wants_emissions or not self._replies:
            return output
        emissions = self._snapshot.take(runner)
        return compat.attach(output, EMISSIONS_ATTRIBUTE, emissions)

    @property
    def num_taps(self) -> int:
        """Taps in this worker."""
        return len(self._here)

    def installed(self) -> dict[str, object]:
        """What this worker did, for readiness."""
        return {
            "revision": self._plan.revision,
            "layers": self._layers,
            "taps": [tap.model_dump() for tap in self._here],
        }

    def _on_step(self, request_ids: list[str], starts_B: IntArray, counts_B: IntArray) -> None:
        self._state.write(request_ids, starts_B, counts_B)
        self._snapshot.begin(request_ids, starts_B, counts_B)


def _check_model(plan: Plan, vllm_config: Any, num_blocks: int) -> None:
    facts = plan.body.model
    d_model = vllm_config.model_config.get_hidden_size()
    if (facts.d_model, facts.num_layers) != (d_model, num_blocks):
        raise EngineError(
            f"plan was resolved for {facts.model_id} with {facts.num_layers} layers of width "
            f"{facts.d_model}; the loaded model has {num_blocks} layers of width {d_model}"
        )


class GuardedWorker(compat.worker_base()):  # type: ignore[misc]
    """vLLM's worker of this platform with instruments; `worker_cls` of every guarded server."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then install taps: before profiling, so that their memory is accounted for."""
        super().load_model(*args, **kwargs)
        plan = Plan.from_additional_config(self.vllm_config.additional_config)
        self.pilothouse = Instruments(plan, self.vllm_config, self.model_runner)
        installed = self.pilothouse.num_taps
        logger.info("Pilothouse installed %d taps, plan %s", installed, plan.revision)

    def execute_model(self, scheduler_output: Any) -> Any:
        """One forward pass under the step's plan."""
        self.pilothouse.begin(scheduler_output)
        return super().execute_model(scheduler_output)

    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's sampled tokens with our emissions on the same output."""
        return self.pilothouse.finish(super().sample_tokens(grammar_output), self.model_runner)

    def pilothouse_installed(self) -> dict[str, object]:
        """Answer to the readiness call."""
        return self.pilothouse.installed()
