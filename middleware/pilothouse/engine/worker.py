"""The worker: vLLM's own, plus taps, their buffers, and emissions on each step's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.logger import init_logger

from pilothouse.capture.index import CaptureIndex
from pilothouse.engine.architecture import HookPoint, check_model, open_decoder
from pilothouse.engine.architecture.forward import NUM_TOKENS
from pilothouse.engine.buffers import TapBuffers
from pilothouse.engine.compat import v0_32 as compat
from pilothouse.engine.harvest import Harvest
from pilothouse.engine.plan import Plan, TapPlan
from pilothouse.engine.shards import Ended
from pilothouse.engine.snapshot import Snapshot
from pilothouse.engine.steering_state import SteeringState
from pilothouse.engine.step import EMISSIONS_ATTRIBUTE, STEP_ATTRIBUTE, StepPlan
from pilothouse.engine.tap import ReadColumns, install_tap
from pilothouse.errors import EngineError
from pilothouse.types import IntArray, Tap

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
        points = {tap.tap: decoder.point(tap.layer, tap.site) for tap in body.taps}
        _check_widths(plan, points)
        self._buffers = TapBuffers.allocate(
            plan,
            {tap: point.part for tap, point in points.items()},
            max_tokens=compat.max_step_tokens(vllm_config),
            device=device,
        )
        self._state = SteeringState(self._buffers, len(body.policy_targets))
        self._snapshot = Snapshot(self._buffers.scores_NE)
        self._wants_emissions = False
        self._decoder, self._vllm_config, self._runner = decoder, vllm_config, runner
        self._columns = {
            tap.tap: self._columns_of(tap, points[tap.tap], device) for tap in body.taps
        }
        self._harvest: Harvest | None = None
        self._installed: list[Callable[[], None]] = []
        self._install()
        compat.on_step(runner, self._on_step)

    def begin(self, scheduler_output: Any) -> None:
        """Take in what the scheduler sent with a step."""
        if self._harvest is not None:
            self._harvest.begin(scheduler_output)
        step: StepPlan = getattr(scheduler_output, STEP_ATTRIBUTE, EMPTY_PLAN)
        self._wants_emissions = step.wants_emissions
        self._state.apply(step, scheduler_output.finished_req_ids)

    def computed(self) -> None:
        """The forward pass of a step was run."""
        if self._harvest is not None:
            self._harvest.finish(self._runner)

    def finish(self, output: Any, runner: Any) -> Any:
        """Attach the step's emissions to its output, where somebody asked for them."""
        if output is None or not self._wants_emissions or get_tensor_model_parallel_rank() != 0:
            return output
        emissions = self._snapshot.take(runner)
        return compat.attach(output, EMISSIONS_ATTRIBUTE, emissions)

    def installed(self) -> dict[str, object]:
        """What this worker did, for readiness."""
        return {
            "installation": self._plan.installation,
            "taps": [tap.model_dump() for tap in self._plan.body.taps],
        }

    def open_capture(self, index: CaptureIndex, folder: Path) -> None:
        """From now on write rows of activations to a folder.

        Raises:
            EngineError: a place that is not there or does not pass the self-check; a model whose
                forward pass cannot be looked into; a folder that cannot be written.
        """
        self.close_capture({}, complete=False)
        compat.refuse_unseen_passes(self._vllm_config)
        places = index.order.places
        points = {place: self._decoder.point(*place) for place in places}
        self._uninstall()
        try:
            check_model(compat.loaded_model(self._runner), self._vllm_config, self._decoder, places)
            writes = get_tensor_model_parallel_rank() == 0
            self._harvest = Harvest(index, folder, points, writes=writes)
            compat.set_compiled(self._runner, False)
        except OSError as error:
            raise EngineError(f"{folder}: cannot be written: {error.strerror or error}") from error
        finally:
            self._install()

    def end_prompts(self, ended: Sequence[Ended]) -> str | None:
        """These prompts of the capture were answered; what went wrong so far."""
        if self._harvest is None:
            return "no capture is open"
        self._harvest.end(ended)
        return self._harvest.problem

    def close_capture(self, actions: dict[str, list[int]], *, complete: bool) -> str | None:
        """End a capture, if there is one, with what it holds written; what went wrong."""
        harvest, self._harvest = self._harvest, None
        if harvest is None:
            return None
        harvest.close(actions, complete=complete)
        self._uninstall()
        self._install()
        compat.set_compiled(self._runner, True)
        return harvest.problem

    def _install(self) -> None:
        """Put taps in the order in which a token passes them, a capture's reads behind edits."""
        taps = self._plan.taps()
        reads = self._harvest.points if self._harvest is not None else {}
        for place in sorted({*taps, *reads}, key=lambda each: each.depth):
            if place in taps:
                point, tap = self._decoder.point(*place), taps[place]
                self._installed.append(install_tap(point, tap, self._buffers, self._columns[place]))
            if place in reads and self._harvest is not None:
                self._installed.append(reads[place].register(self._harvest.reader(place)))

    def _uninstall(self) -> None:
        while self._installed:
            self._installed.pop()()

    def _columns_of(
        self, tap: TapPlan, point: HookPoint, device: torch.device
    ) -> ReadColumns | None:
        if tap.read_stop == tap.read_start:
            return None
        rows_DE = self._plan.tensors[f"reads/{tap.layer}/{tap.site}"][point.part]
        reads_DE = torch.from_numpy(np.ascontiguousarray(rows_DE)).to(device)
        return ReadColumns(reads_DE, tap.read_start, tap.read_stop)

    def _on_step(self, request_ids: list[str], starts_B: IntArray, counts_B: IntArray) -> None:
        self._state.write(request_ids, starts_B, counts_B)
        self._snapshot.begin(request_ids, starts_B, counts_B)
        if self._harvest is not None:
            self._harvest.on_step(request_ids, starts_B, counts_B)


def _check_model(plan: Plan, vllm_config: Any, num_blocks: int) -> None:
    facts = plan.body.model
    d_model = vllm_config.model_config.get_hidden_size()
    if (facts.d_model, facts.num_layers) != (d_model, num_blocks):
        raise EngineError(
            f"plan was resolved for {facts.model_id} with {facts.num_layers} layers of width "
            f"{facts.d_model}; the loaded model has {num_blocks} layers of width {d_model}"
        )


def _check_widths(plan: Plan, points: Mapping[Tap, HookPoint]) -> None:
    wrong = [
        f"{tap.site} of layer {tap.layer}: what is loaded there has width {planned.width}, "
        f"{plan.body.model.model_id} has {points[tap].total}"
        for tap, planned in plan.taps().items()
        if points[tap].total != planned.width
    ]
    if wrong:
        raise EngineError("; ".join(wrong) + ": load artefacts that were made for this model")


class GuardedWorker(compat.worker_base()):  # type: ignore[misc]
    """vLLM's worker of this platform with instruments; `worker_cls` of every guarded server."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then install taps: before profiling, so that their memory is accounted for."""
        super().load_model(*args, **kwargs)
        plan = Plan.from_additional_config(self.vllm_config.additional_config)
        self.pilothouse = Instruments(plan, self.vllm_config, self.model_runner)
        logger.info("Pilothouse installed %d taps, plan %s", len(plan.body.taps), plan.revision)

    def execute_model(self, scheduler_output: Any) -> Any:
        """One forward pass under the step's plan."""
        self.pilothouse.begin(scheduler_output)
        output = super().execute_model(scheduler_output)
        self.pilothouse.computed()
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's sampled tokens with our emissions on the same output."""
        return self.pilothouse.finish(super().sample_tokens(grammar_output), self.model_runner)

    def pilothouse_installed(self) -> dict[str, object]:
        """Answer to the readiness call."""
        return self.pilothouse.installed()

    def pilothouse_capture_open(self, index: str, folder: str) -> str | None:
        """Start a capture; None, or what is wrong."""
        try:
            self.pilothouse.open_capture(CaptureIndex.model_validate_json(index), Path(folder))
        except EngineError as error:
            return str(error)
        return None

    def pilothouse_capture_ended(self, ended: list[Ended]) -> str | None:
        """Prompts of the capture that were answered; None, or what went wrong so far."""
        return self.pilothouse.end_prompts([(each[0], each[1], each[2]) for each in ended])

    def pilothouse_capture_close(self, actions: dict[str, list[int]], complete: bool) -> str | None:
        """End the capture; None, or what went wrong."""
        return self.pilothouse.close_capture(actions, complete=complete)

    def shutdown(self) -> None:
        """Also when a signal ends the engine in the middle of a capture: its rows are kept."""
        if hasattr(self, "pilothouse"):
            self.pilothouse.close_capture({}, complete=False)
        super().shutdown()
