"""What is used of vLLM's objects, and nothing else, as types.

`relied_on` names the class of vLLM's behind each. A method's parameters are those that we give, in
vLLM's order and by vLLM's names; one that takes `*args` and `**kwargs` is handed on as it came.
`replaced` stands where vLLM calls a function of ours in place of its own, which must then take all
that vLLM's takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Call = TypeVar("Call", bound=Callable[..., Any])

REPLACED = "__replaced__"


def replaced(function: Call) -> Call:
    """Mark a method in whose place vLLM calls ours."""
    setattr(function, REPLACED, True)
    return function


class VllmConfig(Protocol):
    """The whole configuration, as vLLM resolved it."""

    additional_config: Any
    attention_config: Any
    aux_output_config: Any
    cache_config: Any
    compilation_config: Any
    diffusion_config: Any
    ec_transfer_config: Any
    kv_events_config: Any
    kv_transfer_config: Any
    lora_config: Any
    model_config: Any
    parallel_config: Any
    scheduler_config: Any
    speculative_config: Any


class ModelConfig(Protocol):
    """The model, as its own configuration and the flags have it."""

    dtype: Any
    enable_prompt_embeds: bool
    enable_sleep_mode: bool
    hf_config: Any
    hf_text_config: Any
    max_model_len: int
    multimodal_config: Any
    return_sampling_mask: bool
    runner_type: str

    @property
    def architecture(self) -> str: ...

    @property
    def is_multimodal_model(self) -> bool: ...

    @property
    def mrope_num_dims(self) -> int: ...

    @property
    def uses_mrope(self) -> bool: ...

    def get_head_size(self) -> int: ...

    def get_hidden_size(self) -> int: ...

    def get_multimodal_config(self) -> Any: ...

    def get_total_num_hidden_layers(self) -> int: ...

    def get_total_num_kv_heads(self) -> int: ...

    def get_vocab_size(self) -> int: ...


class ParallelConfig(Protocol):
    """How the model is split; `v0_31` and later differ in sequence parallelism."""

    data_parallel_size: int
    decode_context_parallel_size: int
    enable_dbo: bool
    pipeline_parallel_size: int
    prefill_context_parallel_size: int
    tensor_parallel_size: int
    ubatch_size: int
    worker_extension_cls: str


class SchedulerConfig(Protocol):
    """How much a step holds."""

    async_scheduling: bool | None
    max_num_batched_tokens: int
    max_num_seqs: int


class CacheConfig(Protocol):
    """The KV cache."""

    block_size: int
    enable_prefix_caching: bool
    kv_offloading_size: float | None
    kv_sharing_fast_prefill: bool


class CompilationConfig(Protocol):
    """What is compiled, and which CUDA graphs are captured."""

    cudagraph_mode: Any
    max_cudagraph_capture_size: int | None


class SamplingParams(Protocol):
    """How a request is sampled; `extra_args` has our signed request."""

    extra_args: dict[str, Any] | None
    stop: Any
    repetition_detection: Any


class Request(Protocol):
    """A request in the scheduler.

    `_block_hasher` makes the hashes of blocks that became full, `block_hashes` holds them.
    """

    request_id: str
    client_index: int
    prompt_token_ids: list[int] | None
    sampling_params: SamplingParams | None
    num_prompt_tokens: int
    max_tokens: int
    status: Any
    spec_token_ids: list[int]
    num_computed_tokens: int
    num_preemptions: int
    output_token_ids: Sequence[int]
    all_token_ids: Sequence[int]
    trace_headers: Mapping[str, str] | None
    block_hashes: list[Any]
    skip_reading_prefix_cache: bool
    resumable: bool
    _block_hasher: Callable[[Any], list[Any]] | None

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_output_tokens(self) -> int: ...

    def update_block_hashes(self) -> None: ...

    def is_finished(self) -> bool: ...


class NewRequestData(Protocol):
    """A request that a worker sees for the first time."""

    req_id: str
    prompt_token_ids: list[int] | None
    sampling_params: SamplingParams | None


class SchedulerOutput(Protocol):
    """A step as the scheduler planned it; it travels to the workers with an attribute of ours."""

    scheduled_new_reqs: list[Any]
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    scheduled_spec_decode_tokens: dict[str, list[int]]
    finished_req_ids: set[str]


class ModelRunnerOutput(Protocol):
    """What a step sampled."""

    req_id_to_index: dict[str, int]
    sampled_token_ids: list[list[int]]


class EngineCoreOutput(Protocol):
    """What one request got in a step, on its way from the scheduler to an API process."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: Any
    new_prompt_logprobs_tensors: Any
    finish_reason: Any
    stop_reason: int | str | None
    events: Any
    kv_transfer_params: dict[str, Any] | None
    trace_headers: Mapping[str, str] | None
    prefill_stats: Any
    prompt_token_id_logprobs: Any


class EngineCoreOutputs(Protocol):
    """The outputs of a step for one API process."""

    outputs: list[Any]


class LogprobsLists(Protocol):
    """Log-probabilities of a step's tokens, a row for each."""

    logprob_token_ids: Any
    logprobs: Any
    sampled_token_ranks: Any


class KvCacheManager(Protocol):
    """Who finds blocks that were computed and gives out new ones."""

    enable_caching: bool
    empty_kv_cache_blocks: Any

    @replaced
    def get_computed_blocks(
        self, request: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, int, int]: ...

    @replaced
    def allocate_slots(
        self,
        request: Any,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        *args: Any,
        **kwargs: Any,
    ) -> Any: ...

    def prefix_cache_lookup_enabled(self, request: Any) -> bool: ...


class Scheduler(Protocol):
    """vLLM's scheduler, over which ours is a mixin.

    `_handle_blocked_waiting_request` is asked of each waiting request whether it may run now.
    """

    vllm_config: Any
    requests: dict[str, Any]
    max_model_len: int
    hash_block_size: int
    kv_cache_manager: Any

    @replaced
    def add_request(self, request: Any) -> None: ...

    @replaced
    def schedule(self, *args: Any, **kwargs: Any) -> Any: ...

    @replaced
    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any: ...

    @replaced
    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: Any
    ) -> list[Any]: ...

    @replaced
    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool: ...

    @replaced
    def has_requests(self) -> bool: ...

    @replaced
    def _handle_blocked_waiting_request(self, request: Any) -> bool: ...


class EngineCore(Protocol):
    """The process of the scheduler; utility calls look their method up on it by name."""

    scheduler: Any


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


class IntermediateTensors(Protocol):
    """What travels between pipeline stages."""

    tensors: dict[str, Tensor]


class LogprobsProcessor(Protocol):
    """What an answer tells of log-probabilities."""

    prompt_logprobs: Any


class RequestState(Protocol):
    """A request in an API process."""

    external_req_id: str
    request_index: int
    prompt_len: int
    logprobs_processor: Any


class OutputProcessor(Protocol):
    """Who makes answers of outputs in an API process."""

    request_states: dict[str, Any]

    @replaced
    def process_outputs(
        self, engine_core_outputs: Sequence[Any], *args: Any, **kwargs: Any
    ) -> Any: ...


class AsyncEngineClient(Protocol):
    """An API process's connection to the engine cores."""

    client_index: int


class SyncEngineClient(Protocol):
    """The offline engine's connection to a core in a process of its own."""

    resources: Any

    def call_utility(self, method: str, *args: Any) -> Any: ...


class ClientResources(Protocol):
    """What the connection holds; the flag is set when a process has died."""

    engine_dead: bool


class InprocClient(Protocol):
    """The offline engine's core in the same process."""

    engine_core: Any


class EngineClient(Protocol):
    """What every connection has."""

    def shutdown(self) -> None: ...


class LLMEngine(Protocol):
    """The engine behind vLLM's `LLM`."""

    engine_core: Any
    vllm_config: Any

    def step(self) -> Sequence[Any]: ...

    def has_unfinished_requests(self) -> bool: ...

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None: ...
