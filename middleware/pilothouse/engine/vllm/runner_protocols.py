"""What is used of vLLM's worker and of both generations of model runners, and nothing else."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.engine.vllm.protocols import SchedulerOutput, replaced

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn


class IntermediateTensors(Protocol):
    """What travels between pipeline stages."""

    tensors: dict[str, Tensor]


class Worker(Protocol):
    """The worker of a platform, from which ours is derived."""

    vllm_config: VllmConfig
    model_runner: ModelRunner

    @replaced
    def load_model(self, *args: object, **kwargs: object) -> None: ...

    @replaced
    def execute_model(self, scheduler_output: SchedulerOutput) -> object: ...

    @replaced
    def sample_tokens(self, grammar_output: object) -> object: ...

    @replaced
    def shutdown(self) -> None: ...


class ModelRunner(Protocol):
    """What both generations of model runners have."""

    device: torch.device
    lora_config: object

    def get_model(self) -> nn.Module: ...

    @replaced
    def execute_model(
        self,
        scheduler_output: SchedulerOutput,
        intermediate_tensors: IntermediateTensors | None = None,
        *args: object,
        **kwargs: object,
    ) -> object: ...

    def maybe_select_dummy_loras(
        self,
        lora_config: object,
        num_scheduled_tokens: np.ndarray,
        *,
        num_active_loras: int,
    ) -> AbstractContextManager[None]: ...


class ModelRunnerV1(ModelRunner, Protocol):
    """The first generation: `_prepare_inputs` settles the order of the batch."""

    input_batch: InputBatchV1
    input_ids: DeviceBuffer
    async_output_copy_stream: torch.cuda.Stream

    @replaced
    def _prepare_inputs(
        self, scheduler_output: SchedulerOutput, num_scheduled_tokens: np.ndarray
    ) -> object: ...


class InputBatchV1(Protocol):
    """The first generation's batch; arrays are as long as the largest batch."""

    num_computed_tokens_cpu: np.ndarray

    @property
    def req_ids(self) -> list[str]: ...

    @property
    def num_reqs(self) -> int: ...


class DeviceBuffer(Protocol):
    """A tensor with a copy on the host."""

    gpu: Tensor


class ModelRunnerV2(ModelRunner, Protocol):
    """The second generation."""

    model_state: ModelState
    input_buffers: InputBuffers
    output_copy_stream: torch.cuda.Stream


class ModelState(Protocol):
    """What the second generation asks for a model's own inputs, before a graph's replay too."""

    @replaced
    def prepare_inputs(self, input_batch: InputBatchV2, req_states: object) -> object: ...


class InputBatchV2(Protocol):
    """The second generation's batch."""

    req_ids: list[str]
    num_reqs: int
    num_computed_tokens_np: np.ndarray
    num_scheduled_tokens: np.ndarray


class InputBuffers(Protocol):
    """The second generation's inputs, as long as the largest step."""

    input_ids: Tensor
