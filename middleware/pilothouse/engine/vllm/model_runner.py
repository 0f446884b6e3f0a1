"""vLLM's worker of this platform and its model runners of both generations.

Batch order and positions of a step, its buffers, the model itself, the step's output with an
attribute of ours on it, and LoRA adapters around what is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeGuard, cast

import numpy as np
import torch
from torch import Tensor, nn
from vllm.distributed import get_pp_group
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.engine.vllm.protocols import SchedulerOutput
from pilothouse.engine.vllm.runner_protocols import (
    DeviceBuffer,
    InputBatchV1,
    InputBatchV2,
    InputBuffers,
    ModelRunner,
    ModelRunnerV1,
    ModelRunnerV2,
    ModelState,
)
from pilothouse.engine.vllm.version import of_this_version
from pilothouse.errors import EngineError
from pilothouse.types import IntArray


def worker_base() -> type[object]:
    """Return the platform's own worker class."""
    if current_platform.is_cpu():
        from vllm.v1.worker import cpu_worker

        return cast(type[object], cpu_worker.CPUWorker)
    if current_platform.is_cuda():
        from vllm.v1.worker import gpu_worker

        return cast(type[object], gpu_worker.Worker)
    raise EngineError(
        f"platform {current_platform.device_name!r} is not supported: CPU and CUDA are"
    )


TRAVELLING = "pilothouse_reads"
OnStep = Callable[[list[str], IntArray, IntArray], None]


def uses_v2_runner(runner: ModelRunner) -> TypeGuard[ModelRunnerV2]:
    """Tell whether a model runner is of the second generation."""
    return hasattr(runner, "model_state")


def loaded_model(runner: ModelRunner) -> nn.Module:
    """Return the model object the runner executes, before any wrapper."""
    return runner.get_model()


def is_last_stage() -> bool:
    """Tell whether this worker is on the pipeline stage whose output the scheduler gets."""
    return bool(get_pp_group().is_last_rank)


def between_stages(
    runner: ModelRunner,
    wanted: Callable[[], bool],
    receive: Callable[[torch.Tensor], None],
    give: Callable[[int], torch.Tensor],
) -> None:
    """Have a tensor of ours travel from stage to stage beside a step's hidden states.

    `receive` gets what the stage before sent, ahead of this stage's pass; `give` is asked after it
    for as many rows as the step has tokens. Every stage must be told the same by `wanted`.
    """
    execute = runner.execute_model

    def execute_model(
        scheduler_output: SchedulerOutput,
        intermediate_tensors: IntermediateTensors | None = None,
        *args: object,
        **kwargs: object,
    ) -> object:
        if intermediate_tensors is not None and wanted():
            receive(intermediate_tensors.tensors.pop(TRAVELLING))
        output = execute(scheduler_output, intermediate_tensors, *args, **kwargs)
        if isinstance(output, IntermediateTensors) and wanted():
            output.tensors[TRAVELLING] = give(scheduler_output.total_num_scheduled_tokens)
        return output

    runner.execute_model = execute_model  # type: ignore[method-assign]


def max_step_tokens(vllm_config: VllmConfig) -> int:
    """Return the most tokens a forward pass is given, padding included."""
    scheduled: int = vllm_config.scheduler_config.max_num_batched_tokens
    captured = vllm_config.compilation_config.max_cudagraph_capture_size or 0
    sequences: int = vllm_config.scheduler_config.max_num_seqs
    return max(scheduled, captured, sequences)


def on_step(runner: ModelRunner, call: OnStep) -> None:
    """Have `call(request ids, first positions, token counts)` run before each real forward pass.

    V1: after `_prepare_inputs` settled the batch order. V2: in the model state's
    `prepare_inputs`, which runs before a FULL graph's replay too.
    """
    if uses_v2_runner(runner):
        _on_step_v2(runner, call)
    else:
        _on_step_v1(cast(ModelRunnerV1, runner), call)


def _on_step_v1(runner: ModelRunnerV1, call: OnStep) -> None:
    prepare = runner._prepare_inputs

    def prepare_inputs(
        scheduler_output: SchedulerOutput, num_scheduled_tokens: np.ndarray
    ) -> object:
        prepared = prepare(scheduler_output, num_scheduled_tokens)
        batch: InputBatchV1 = runner.input_batch
        count = batch.num_reqs
        call(
            batch.req_ids[:count],
            batch.num_computed_tokens_cpu[:count].astype(np.int64),
            np.asarray(num_scheduled_tokens[:count], dtype=np.int64),
        )
        return prepared

    runner._prepare_inputs = prepare_inputs  # type: ignore[method-assign]


def _on_step_v2(runner: ModelRunnerV2, call: OnStep) -> None:
    state: ModelState = runner.model_state
    prepare = state.prepare_inputs

    def prepare_inputs(input_batch: InputBatchV2, req_states: object) -> object:
        count = input_batch.num_reqs
        call(
            list(input_batch.req_ids[:count]),
            input_batch.num_computed_tokens_np[:count].astype(np.int64),
            np.asarray(input_batch.num_scheduled_tokens[:count], dtype=np.int64),
        )
        return prepare(input_batch, req_states)

    state.prepare_inputs = prepare_inputs  # type: ignore[method-assign]


def step_token_ids(runner: ModelRunner) -> Tensor:
    """Return the token ids of the last step, in batch order, on the device; padded behind it."""
    if uses_v2_runner(runner):
        buffers: InputBuffers = runner.input_buffers
        return buffers.input_ids
    buffer: DeviceBuffer = cast(ModelRunnerV1, runner).input_ids
    return buffer.gpu


def refuse_unseen_passes(vllm_config: VllmConfig) -> None:
    """Stop what reads activations by plain hooks where forward passes do not call them.

    Raises:
        EngineError: full CUDA graphs, pipeline parallel, speculative decoding.
    """
    parallel, graphs = vllm_config.parallel_config, vllm_config.compilation_config.cudagraph_mode
    if graphs is not None and graphs.has_full_cudagraphs():
        raise EngineError(
            f"CUDA graphs of whole passes ({graphs.name}) are replayed without calling what reads "
            "activations: load the model with enforce_eager=True"
        )
    if parallel.pipeline_parallel_size > 1:
        raise EngineError(
            "layers lie on several pipeline stages, and one process writes the rows: load the "
            "model with pipeline_parallel_size=1"
        )
    if vllm_config.speculative_config is not None:
        raise EngineError(
            "rows of rejected draft tokens would be kept: load the model without speculative_config"
        )


def set_compiled(runner: ModelRunner, compiled: bool) -> None:
    """Have forward passes take the compiled graph, if there is one, or the modules themselves."""
    for module in loaded_model(runner).modules():
        if "compiled" in vars(module) and "do_not_compile" in vars(module):
            module.do_not_compile = not compiled  # type: ignore[assignment]


def copy_stream(runner: ModelRunner) -> torch.cuda.Stream:
    """Return the stream on which the runner copies outputs to the host."""
    if uses_v2_runner(runner):
        return runner.output_copy_stream
    return cast(ModelRunnerV1, runner).async_output_copy_stream


class AttachedOutput(AsyncModelRunnerOutput):
    """vLLM's output of a step, with an attribute added once both are on the host."""

    def __init__(
        self, inner: AsyncModelRunnerOutput, attribute: str, value: Callable[[], object]
    ) -> None:
        self._inner = inner
        self._attribute = attribute
        self._value = value

    def get_output(self) -> ModelRunnerOutput:
        """Wait for vLLM's output, then attach ours. Runs in vLLM's output thread."""
        output = self._inner.get_output()
        setattr(output, self._attribute, self._value())
        return output

    def get_kv_connector_output(self) -> object:
        """Hand on what vLLM (from 0.33 on) asks for where `get_output` has failed."""
        # vLLM 0.32 has no such method, and does not ask for it.
        return self._inner.get_kv_connector_output()


def attach(output: object, attribute: str, value: Callable[[], object]) -> object:
    """Put an attribute on a step's output, now or when it has arrived on the host."""
    if isinstance(output, AsyncModelRunnerOutput):
        return AttachedOutput(output, attribute, value)
    setattr(output, attribute, value())
    return output


def without_adapters(runner: ModelRunner, num_tokens: int) -> AbstractContextManager[None]:
    """While open, a pass of `num_tokens` through the model uses no LoRA adapter.

    Wrapped modules index by token, so that a pass outside a step needs a mapping too.
    """
    selected: AbstractContextManager[None] = runner.maybe_select_dummy_loras(
        runner.lora_config, np.array([num_tokens]), num_active_loras=0
    )
    return selected


def add_empty_adapter(model: nn.Module) -> None:
    """On CPU, put a slot that stays empty behind a model's LoRA slots.

    The CPU kernels of some versions look a token without an adapter up at index -1 and so give it
    the adapter of the last slot, where CUDA kernels skip it. Zeros in the last place of the second
    factor make that nothing.
    """
    if not current_platform.is_cpu():
        return
    if not of_this_version().ADAPTERLESS_TOKENS_TAKE_THE_LAST_SLOT:
        return
    for module in model.modules():
        stacked = getattr(module, "lora_b_stacked", None)
        if isinstance(stacked, torch.Tensor):
            module.lora_b_stacked = _with_zeros(stacked)
        elif isinstance(stacked, tuple):
            module.lora_b_stacked = tuple(map(_with_zeros, stacked))  # type: ignore[assignment]


def _with_zeros(stacked: torch.Tensor) -> torch.Tensor:
    return torch.cat([stacked, torch.zeros_like(stacked[:1])])
