"""What is used of vLLM's configuration, as it was resolved, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


class VllmConfig(Protocol):
    """The whole configuration, as vLLM resolved it."""

    additional_config: object
    attention_config: object
    aux_output_config: object
    cache_config: CacheConfig
    compilation_config: CompilationConfig
    diffusion_config: object
    ec_transfer_config: object
    kv_events_config: object
    kv_transfer_config: object
    lora_config: object
    model_config: ModelConfig
    parallel_config: ParallelConfig
    scheduler_config: SchedulerConfig
    speculative_config: Any


class ModelConfig(Protocol):
    """The model, as its own configuration and the flags have it."""

    dtype: torch.dtype
    enable_prompt_embeds: bool
    enable_sleep_mode: bool
    hf_config: PretrainedConfig
    hf_text_config: PretrainedConfig
    max_model_len: int
    multimodal_config: object
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

    def get_multimodal_config(self) -> object: ...

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
