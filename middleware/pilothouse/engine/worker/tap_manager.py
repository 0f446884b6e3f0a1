"""Installs and feeds everything of ours in one worker: taps, buffers, reads, a capture.

Shape suffixes: N most tokens, T tokens of the step, B its requests, E read columns, D hidden
size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_rank

from pilothouse.capture.index import CaptureIndex
from pilothouse.engine.hooks import Decoder, HookPoint, check_model, open_decoder
from pilothouse.engine.hooks.tiny_forward import NUM_TOKENS
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.tap_plan import TapPlan
from pilothouse.engine.scheduler.messages import (
    EMISSIONS_ATTRIBUTE,
    STEP_ATTRIBUTE,
    Emissions,
    StepPlan,
)
from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.engine.vllm.model_runner import (
    add_empty_adapter,
    attach,
    between_stages,
    copy_stream,
    is_last_stage,
    loaded_model,
    max_step_tokens,
    on_step,
    refuse_unseen_passes,
    set_compiled,
    without_adapters,
)
from pilothouse.engine.vllm.protocols import SchedulerOutput
from pilothouse.engine.vllm.runner_protocols import ModelRunner
from pilothouse.engine.worker.activation_recorder import ActivationRecorder
from pilothouse.engine.worker.batch_state import SteeringState
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.engine.worker.read_columns import ReadColumns, columns_of
from pilothouse.engine.worker.shard_writer import Ended
from pilothouse.engine.worker.tap import install_tap
from pilothouse.errors import EngineError
from pilothouse.types import IntArray, Tap


class Readback:
    """Remembers who is in the step; `take` starts the copy to the host."""

    def __init__(self, scores_NE: Tensor) -> None:
        self._scores_NE = scores_NE
        self._members: tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())

    def begin(self, request_ids: Sequence[str], starts_B: IntArray, counts_B: IntArray) -> None:
        """Remember the step's requests, first positions and token counts, in batch order."""
        self._members = (tuple(request_ids), tuple(starts_B.tolist()), tuple(counts_B.tolist()))

    def take(self, runner: ModelRunner) -> Callable[[], Emissions]:
        """Start copying this step's rows; the result waits for the copy.

        The snapshot is made on the main stream, in order with the forward pass that wrote it and
        the next that will overwrite it; the copy to the host runs beside the next forward.
        """
        request_ids, starts, counts = self._members
        snapshot_TE = self._scores_NE[: sum(counts)].clone()
        if snapshot_TE.device.type == "cpu":
            return lambda: Emissions(request_ids, starts, counts, snapshot_TE.numpy())
        stream = copy_stream(runner)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            host_TE = snapshot_TE.to("cpu", non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(stream)
        snapshot_TE.record_stream(stream)

        def arrived() -> Emissions:
            done.synchronize()
            return Emissions(request_ids, starts, counts, host_TE.numpy())

        return arrived


EMPTY_PLAN = StepPlan()


class TapManager:
    """Owns taps, their buffers, the steering state and a step's reads in one worker."""

    def __init__(self, plan: Plan, vllm_config: VllmConfig, runner: ModelRunner) -> None:
        self._plan = plan
        body = plan.body
        device = torch.device(runner.device)
        model = loaded_model(runner)
        add_empty_adapter(model)
        with without_adapters(runner, NUM_TOKENS):
            decoder = open_decoder(model, vllm_config)
            _check_model(plan, vllm_config, len(decoder.blocks))
            check_model(model, vllm_config, decoder, [(tap.layer, tap.site) for tap in body.taps])
        here = part_of(plan, decoder)
        self._taps, self._layers = here.taps(), decoder.local_layers()
        points = {tap: decoder.point(*tap) for tap in self._taps}
        _check_widths(here, points)
        self._buffers = TapBuffers.allocate(
            here,
            {tap: point.part for tap, point in points.items()},
            max_tokens=max_step_tokens(vllm_config),
            device=device,
        )
        self._state = SteeringState(self._buffers, len(body.policy_targets))
        self._readback = Readback(self._buffers.scores_NE)
        self._wants_emissions = False
        self._replies = is_last_stage() and get_tensor_model_parallel_rank() == 0
        self._decoder, self._vllm_config, self._runner = decoder, vllm_config, runner
        self._columns = {
            tap: self._columns_of(planned, points[tap], device)
            for tap, planned in self._taps.items()
        }
        self._recorder: ActivationRecorder | None = None
        self._installed: list[Callable[[], None]] = []
        self._install()
        on_step(runner, self._on_step)
        relay_reads(runner, self._buffers.scores_NE, lambda: self._wants_emissions)

    def begin(self, scheduler_output: SchedulerOutput) -> None:
        """Apply what the scheduler sent with a step."""
        if self._recorder is not None:
            self._recorder.begin(scheduler_output)
        step: StepPlan = getattr(scheduler_output, STEP_ATTRIBUTE, EMPTY_PLAN)
        self._wants_emissions = step.wants_emissions
        self._state.apply(step, scheduler_output.finished_req_ids)

    def computed(self) -> None:
        """Note that the forward pass of a step was run."""
        if self._recorder is not None:
            self._recorder.finish(self._runner)

    def finish(self, output: object, runner: ModelRunner) -> object:
        """Attach the step's emissions to its output, where somebody asked for them."""
        if output is None or not self._wants_emissions or not self._replies:
            return output
        emissions = self._readback.take(runner)
        return attach(output, EMISSIONS_ATTRIBUTE, emissions)

    @property
    def num_taps(self) -> int:
        """The number of taps in this worker."""
        return len(self._taps)

    def installed(self) -> dict[str, object]:
        """Return what this worker did, for readiness."""
        return {
            "installation": self._plan.installation,
            "layers": self._layers,
            "taps": [tap.model_dump() for tap in self._taps.values()],
        }

    def open_capture(self, index: CaptureIndex, folder: Path) -> None:
        """Write rows of activations to a folder from now on.

        Raises:
            EngineError: a place that is not there or does not pass the self-check; a model whose
                forward pass cannot be looked into; a folder that cannot be written.
        """
        self.close_capture({}, complete=False)
        refuse_unseen_passes(self._vllm_config)
        places = index.order.places
        points = {place: self._decoder.point(*place) for place in places}
        self._uninstall()
        try:
            with without_adapters(self._runner, NUM_TOKENS):
                model = loaded_model(self._runner)
                check_model(model, self._vllm_config, self._decoder, places)
            writes = get_tensor_model_parallel_rank() == 0
            self._recorder = ActivationRecorder(index, folder, points, writes=writes)
            set_compiled(self._runner, False)
        except OSError as error:
            raise EngineError(f"{folder}: cannot be written: {error.strerror or error}") from error
        finally:
            self._install()

    def end_prompts(self, ended: Sequence[Ended]) -> str | None:
        """Note prompts of the capture that were answered; return what went wrong so far."""
        if self._recorder is None:
            return "no capture is open"
        self._recorder.end(ended)
        return self._recorder.problem

    def close_capture(self, actions: dict[str, list[int]], *, complete: bool) -> str | None:
        """End a capture, if there is one, and write what it holds; return what went wrong."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return None
        recorder.close(actions, complete=complete)
        self._uninstall()
        self._install()
        set_compiled(self._runner, True)
        return recorder.problem

    def _install(self) -> None:
        """Put taps in the order in which a token passes them, a capture's reads behind edits."""
        taps = self._taps
        reads = self._recorder.points if self._recorder is not None else {}
        for place in sorted({*taps, *reads}, key=lambda each: each.depth):
            if place in taps:
                point, tap = self._decoder.point(*place), taps[place]
                self._installed.append(install_tap(point, tap, self._buffers, self._columns[place]))
            if place in reads and self._recorder is not None:
                self._installed.append(reads[place].register(self._recorder.reader(place)))

    def _uninstall(self) -> None:
        while self._installed:
            self._installed.pop()()

    def _columns_of(
        self, tap: TapPlan, point: HookPoint, device: torch.device
    ) -> ReadColumns | None:
        rows_DE = self._plan.tensors.get(f"reads/{tap.layer}/{tap.site}")
        part_DE = None if rows_DE is None else rows_DE[point.part]
        hidden = [
            arrays | {"weights": arrays["weights"][point.part]}
            for arrays in self._plan.hidden_tensors(tap.tap)
        ]
        return columns_of(tap, part_DE, self._buffers.resident_saes[tap.tap], device, hidden)

    def _on_step(self, request_ids: list[str], starts_B: IntArray, counts_B: IntArray) -> None:
        self._state.write(request_ids, starts_B, counts_B)
        self._readback.begin(request_ids, starts_B, counts_B)
        if self._recorder is not None:
            self._recorder.on_step(request_ids, starts_B, counts_B)


def _check_model(plan: Plan, vllm_config: VllmConfig, num_blocks: int) -> None:
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


def part_of(plan: Plan, decoder: Decoder) -> Plan:
    """Return the plan with the taps of this stage's layers only; columns keep their places."""
    here = tuple(tap for tap in plan.body.taps if decoder.is_here(tap.layer))
    if len(here) == len(plan.body.taps):
        return plan
    return replace(plan, body=plan.body.model_copy(update={"taps": here}))


def relay_reads(runner: ModelRunner, scores_NE: Tensor, wanted: Callable[[], bool]) -> None:
    """Hand reads from stage to stage in the steps whose emissions are wanted.

    Under pipeline parallelism only the last stage's output reaches the scheduler, so a stage gives
    what its taps read, and what it was given itself, to the next one.

    Every stage is told the same of a step, so that what one sends the next expects.
    """
    if not scores_NE.shape[1]:
        return

    def receive(scores_TE: Tensor) -> None:
        # Before the pass: this stage's own taps then write their columns over the zeros.
        scores_NE[: scores_TE.shape[0]].copy_(scores_TE)

    def give(num_tokens: int) -> Tensor:
        # A copy: it is still on its way when the next pass writes the buffer.
        return scores_NE[:num_tokens].clone()

    between_stages(runner, wanted, receive, give)
