"""What is used of vLLM's configuration, as it was resolved, and nothing else."""

from __future__ import annotations

from typing import Any, Protocol


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
