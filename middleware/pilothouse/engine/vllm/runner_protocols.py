"""What is used of vLLM's worker and of both generations of model runners, and nothing else."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from pilothouse.engine.vllm.protocols import SamplingParams, replaced

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class NewRequestData(Protocol):
    """A request that a worker sees for the first time."""

    req_id: str
    prompt_token_ids: list[int] | None
    sampling_params: SamplingParams | None


class IntermediateTensors(Protocol):
    """What travels between pipeline stages."""

    tensors: dict[str, Tensor]


class Worker(Protocol):
    """The worker of a platform, from which ours is derived."""

    vllm_config: Any
    model_runner: Any

    @replaced
    def load_model(self, *args: Any, **kwargs: Any) -> None: ...

    @replaced
    def execute_model(self, scheduler_output: Any) -> Any: ...

    @replaced
    def sample_tokens(self, grammar_output: Any) -> Any: ...

    @replaced
    def shutdown(self) -> None: ...


class ModelRunner(Protocol):
    """What both generations of model runners have."""

    device: Any
    lora_config: Any

    def get_model(self) -> nn.Module: ...

    @replaced
    def execute_model(
        self,
        scheduler_output: Any,
        intermediate_tensors: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any: ...

    def maybe_select_dummy_loras(
        self,
        lora_config: Any,
        num_scheduled_tokens: np.ndarray,
        *,
        num_active_loras: int,
    ) -> AbstractContextManager[None]: ...


class ModelRunnerV1(ModelRunner, Protocol):
    """The first generation: `_prepare_inputs` settles the order of the batch."""

    input_batch: Any
    input_ids: Any
    async_output_copy_stream: Any

    @replaced
    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any: ...


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

    model_state: Any
    input_buffers: Any
    output_copy_stream: Any


class ModelState(Protocol):
    """What the second generation asks for a model's own inputs, before a graph's replay too."""

    @replaced
    def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any: ...


class InputBatchV2(Protocol):
    """The second generation's batch."""

    req_ids: list[str]
    num_reqs: int
    num_computed_tokens_np: np.ndarray
    num_scheduled_tokens: np.ndarray


class InputBuffers(Protocol):
    """The second generation's inputs, as long as the largest step."""

    input_ids: Tensor
