"""Everything of vLLM's that the package relies on: one row for each name.

`check` compares the rows with the installed vLLM as a process starts, each process its own part,
and `scripts/compat.py` with the source of a release that cannot be run. A test compares them with
what the package imports, so that no use of vLLM's is missing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pilothouse.engine.vllm import config_protocols as config
from pilothouse.engine.vllm import protocols as shapes
from pilothouse.engine.vllm import runner_protocols as runners
from pilothouse.engine.vllm.version import as_number

Part = Literal["api", "scheduler", "worker", "runner_v1", "runner_v2", "offline"]
"""Whose code relies on a name: each process checks its own part as it starts."""


@dataclass(frozen=True, slots=True)
class Use:
    """A name of vLLM's, and what it must be.

    `shape` is the Protocol that a class must meet. `takes` are the parameters that a function is
    given, as they stand behind `def`. `fields` are all that a record class is given, so that it may
    require no other. `defines` are the methods that our class brings to an abstract one, and `keys`
    what a dict must hold.
    """

    module: str
    name: str
    takes: str | None = None
    shape: type | None = None
    fields: tuple[str, ...] | None = None
    defines: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()
    since: str = "0.0"
    until: str = "999.0"
    """The first and the last minor version with which it is used."""

    @property
    def where(self) -> str:
        """Its full name."""
        return f"{self.module}.{self.name}"

    def holds_for(self, minor: str) -> bool:
        """Tell whether it is used with a minor version."""
        return as_number(self.since) <= as_number(minor) <= as_number(self.until)


def _names(module: str, *names: str) -> tuple[Use, ...]:
    return tuple(Use(module, name) for name in names)


_ENGINE_ARGS: Final = "vllm.engine.arg_utils"
_SERVE: Final = "vllm.entrypoints.cli.serve"
_RESPONSES: Final = "vllm.entrypoints.openai.responses.utils"
_RENDERER: Final = "vllm.renderers.hf"
_CLIENTS: Final = "vllm.v1.engine.core_client"
_ANSWERS: Final = "vllm.v1.engine.output_processor"

_CONFIG: Final = (
    Use("vllm.config", "CacheConfig", shape=config.CacheConfig),
    Use("vllm.config", "CompilationConfig", shape=config.CompilationConfig),
    Use("vllm.config", "CompilationConfig.pass_config", until="0.31"),
    Use("vllm.config", "ModelConfig", shape=config.ModelConfig),
    Use("vllm.config", "MultiModalConfig.enable_mm_embeds"),
    Use("vllm.config", "ParallelConfig", shape=config.ParallelConfig),
    Use("vllm.config", "ParallelConfig.enable_hc_sp", since="0.32"),
    Use("vllm.config", "PassConfig.enable_sp", until="0.31"),
    Use("vllm.config", "SchedulerConfig", shape=config.SchedulerConfig),
    Use("vllm.config", "VllmConfig", shape=config.VllmConfig),
)

_API: Final = (
    *_CONFIG,
    *_names(_ENGINE_ARGS, "EngineArgs"),
    Use(_ENGINE_ARGS, "EngineArgs.create_model_config", "()"),
    Use(_ENGINE_ARGS, "EngineArgs.add_cli_args", "(parser)"),
    *_names(_SERVE, "ServeSubcommand"),
    Use(_SERVE, "ServeSubcommand.cmd", "(args)"),
    Use(_SERVE, "ServeSubcommand.validate", "(args)"),
    Use(_SERVE, "ServeSubcommand.subparser_init", "(subparsers)"),
    Use("vllm.entrypoints.serve.utils.api_utils", "cli_env_setup", "()", until="0.32"),
    Use("vllm.entrypoints.common.startup", "cli_env_setup", "()", since="0.33"),
    *_names("vllm.entrypoints.openai.chat_completion.protocol", "ChatCompletionRequest"),
    *_names("vllm.entrypoints.openai.completion.protocol", "CompletionRequest"),
    *_names("vllm.entrypoints.openai.responses.protocol", "ResponsesRequest"),
    Use(_RESPONSES, "construct_input_messages", takes="(*, request_instructions, request_input)"),
    Use(_RESPONSES, "should_continue_final_message", takes="(request_input)"),
    Use("vllm.entrypoints.serve.utils.fingerprint", "get_system_fingerprint", "(vllm_config)"),
    *_names("vllm.exceptions", "VLLMClientError", "VLLMError"),
    Use("vllm.logger", "configure_logging_from_args", "(args)"),
    *_names("vllm.platforms", "current_platform"),
    Use("vllm.renderers", "renderer_from_config", "(config)"),
    Use("vllm.entrypoints.chat_utils", "ChatTemplateResolutionError", until="0.31"),
    Use("vllm.renderers.chat_utils", "ChatTemplateResolutionError", since="0.32", until="0.32"),
    Use("vllm.exceptions", "ChatTemplateResolutionError", since="0.33"),
    Use("vllm.entrypoints.chat_utils", "load_chat_template", "(chat_template)", until="0.31"),
    Use("vllm.renderers.chat_utils", "load_chat_template", "(chat_template)", since="0.32"),
    *_names(_RENDERER, "HfRenderer"),
    Use(
        _RENDERER,
        "resolve_chat_template",
        "(tokenizer, *, chat_template, tools, model_config)",
    ),
    Use(
        _RENDERER,
        "resolve_chat_template_kwargs",
        "(*, tokenizer, chat_template, chat_template_kwargs, raise_on_unexpected)",
    ),
    Use(
        _RENDERER,
        "resolve_chat_template_content_format",
        "(chat_template, tools, given_format, tokenizer, *, model_config)",
    ),
    Use(
        _RENDERER,
        "safe_apply_chat_template",
        "(model_config, tokenizer, conversation, *, tools, chat_template, tokenize, **kwargs)",
    ),
    *_names("vllm.renderers.inputs.preprocess", "prompt_to_seq"),
    *_names("vllm.renderers.params", "ChatParams"),
    Use(
        "vllm.tokenizers",
        "get_tokenizer",
        "(tokenizer_name, *, trust_remote_code, tokenizer_mode, revision)",
    ),
    *_names("vllm.tokenizers.mistral", "MistralTokenizer"),
    Use(
        "vllm.tokenizers.registry",
        "resolve_tokenizer_args",
        "(tokenizer_name, *, tokenizer_mode, revision)",
    ),
    *_names("vllm.tool_parsers", "ToolParserManager", "ToolParserManager.get_tool_parser"),
    *_names("vllm.utils.argparse_utils", "FlexibleArgumentParser"),
    *_names("vllm.utils.torch_utils", "STR_DTYPE_TO_TORCH_DTYPE"),
    Use("vllm.v1.engine.utils", "get_mp_context", "()"),
    Use("vllm.v1.executor.multiproc_executor", "get_mp_context", "()"),
    Use(_CLIENTS, "AsyncMPClient", shape=shapes.AsyncEngineClient),
    Use(_CLIENTS, "AsyncMPClient.call_utility_async", "(method, *args)", until="0.31"),
    Use(_CLIENTS, "AsyncMPClient.call_utility_all_async", "(method, *args)", since="0.32"),
    Use(_ANSWERS, "OutputProcessor", shape=shapes.OutputProcessor),
    Use(_ANSWERS, "RequestState", shape=shapes.RequestState),
    Use("vllm.v1.engine.logprobs", "LogprobsProcessor", shape=shapes.LogprobsProcessor),
    Use(
        "vllm.envs",
        "environment_variables",
        keys=(
            "VLLM_CACHE_ROOT",
            "VLLM_CPU_KVCACHE_SPACE",
            "VLLM_CPU_NUM_OF_RESERVED_CPU",
            "VLLM_CPU_OMP_THREADS_BIND",
            "VLLM_DISABLE_COMPILE_CACHE",
            "VLLM_ENABLE_V1_MULTIPROCESSING",
            "VLLM_PLUGINS",
            "VLLM_SERVER_DEV_MODE",
            "VLLM_USE_AOT_COMPILE",
            "VLLM_USE_RUST_FRONTEND",
            "VLLM_WORKER_MULTIPROC_METHOD",
        ),
    ),
)

_SCHEDULER: Final = (
    Use("vllm.sampling_params", "SamplingParams", shape=shapes.SamplingParams),
    Use("vllm.v1.core.kv_cache_manager", "KVCacheManager", shape=shapes.KvCacheManager),
    Use("vllm.v1.core.sched.async_scheduler", "AsyncScheduler", shape=shapes.Scheduler),
    Use("vllm.v1.core.sched.output", "SchedulerOutput", shape=shapes.SchedulerOutput),
    Use("vllm.v1.core.sched.scheduler", "Scheduler", shape=shapes.Scheduler),
    Use("vllm.v1.core.sched.utils", "check_stop", "(request, max_model_len)"),
    Use("vllm.v1.engine.core", "EngineCore", shape=shapes.EngineCore),
    Use(
        "vllm.v1.engine",
        "EngineCoreOutput",
        shape=shapes.EngineCoreOutput,
        fields=(
            "request_id",
            "new_token_ids",
            "new_logprobs",
            "finish_reason",
            "stop_reason",
            "trace_headers",
        ),
    ),
    Use(
        "vllm.v1.engine",
        "EngineCoreOutputs",
        shape=shapes.EngineCoreOutputs,
        fields=("outputs",),
    ),
    *_names(
        "vllm.v1.engine",
        "FinishReason",
        "FinishReason.STOP",
        "FinishReason.LENGTH",
        "FinishReason.ERROR",
    ),
    Use(
        "vllm.v1.outputs",
        "LogprobsLists",
        shape=shapes.LogprobsLists,
        fields=("logprob_token_ids", "logprobs", "sampled_token_ranks"),
    ),
    Use("vllm.v1.outputs", "ModelRunnerOutput", shape=shapes.ModelRunnerOutput),
    Use("vllm.v1.request", "Request", shape=shapes.Request),
    *_names(
        "vllm.v1.request",
        "RequestStatus",
        "RequestStatus.FINISHED_STOPPED",
        "RequestStatus.FINISHED_ERROR",
        "RequestStatus.FINISHED_ABORTED",
    ),
)

_WORKER: Final = (
    *_CONFIG,
    Use("vllm.config", "set_current_vllm_config", "(vllm_config)"),
    *_names(
        "vllm.distributed",
        "get_pp_group",
        "get_tensor_model_parallel_rank",
        "get_tensor_model_parallel_world_size",
    ),
    Use("vllm.distributed", "tensor_model_parallel_all_gather", "(input_, *, dim)"),
    Use("vllm.distributed", "tensor_model_parallel_all_reduce", "(input_)"),
    Use(
        "vllm.forward_context",
        "set_forward_context",
        "(attn_metadata, vllm_config, *, num_tokens, skip_compiled)",
    ),
    *_names("vllm.model_executor.layers.attention", "Attention", "MLAAttention"),
    *_names("vllm.model_executor.layers.attention_layer_base", "AttentionLayerBase"),
    *_names("vllm.model_executor.layers.linear", "LinearBase"),
    *_names("vllm.model_executor.models.utils", "PPMissingLayer"),
    *_names("vllm.platforms", "current_platform"),
    Use("vllm.sequence", "IntermediateTensors", shape=runners.IntermediateTensors),
    Use("vllm.v1.core.sched.output", "NewRequestData", shape=shapes.NewRequestData),
    Use(
        "vllm.v1.outputs",
        "AsyncModelRunnerOutput",
        defines=("get_output", "get_kv_connector_output"),
    ),
    Use("vllm.v1.worker.cpu_worker", "CPUWorker", shape=runners.Worker),
    Use("vllm.v1.worker.gpu_worker", "Worker", shape=runners.Worker),
)

_RUNNER_V1: Final = (
    Use("vllm.v1.utils", "CpuGpuBuffer", shape=runners.DeviceBuffer),
    Use("vllm.v1.worker.gpu_input_batch", "InputBatch", shape=runners.InputBatchV1),
    Use("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", shape=runners.ModelRunnerV1),
)

_RUNNER_V2: Final = (
    Use("vllm.v1.worker.gpu.input_batch", "InputBatch", shape=runners.InputBatchV2),
    Use("vllm.v1.worker.gpu.input_batch", "InputBuffers", shape=runners.InputBuffers),
    Use("vllm.v1.worker.gpu.model_runner", "GPUModelRunner", shape=runners.ModelRunnerV2),
    Use("vllm.v1.worker.gpu.model_states.interface", "ModelState", shape=runners.ModelState),
)

_OFFLINE: Final = (
    *_names("vllm", "LLM", "RequestOutput", "SamplingParams"),
    *_names("vllm.logprobs", "FlatLogprobs"),
    *_names(
        "vllm",
        "LLM.chat",
        "LLM.enqueue",
        "LLM.enqueue_chat",
        "LLM.generate",
        "LLM.get_default_sampling_params",
        "LLM.get_tokenizer",
    ),
    Use("vllm", "LLM.collective_rpc", "(method, *, args)"),
    *_names("vllm.distributed", "cleanup_dist_env_and_memory"),
    Use("vllm.lora.request", "LoRARequest", fields=("lora_name", "lora_int_id", "lora_path")),
    Use(_CLIENTS, "BackgroundResources", shape=shapes.ClientResources),
    Use(_CLIENTS, "EngineCoreClient", shape=shapes.EngineClient),
    Use(_CLIENTS, "InprocClient", shape=shapes.InprocClient),
    Use(_CLIENTS, "SyncMPClient", shape=shapes.SyncEngineClient),
    Use("vllm.v1.engine.llm_engine", "LLMEngine", shape=shapes.LLMEngine),
)

RELIED_ON: Final[dict[Part, tuple[Use, ...]]] = {
    "api": _API,
    "scheduler": _SCHEDULER,
    "worker": _WORKER,
    "runner_v1": _RUNNER_V1,
    "runner_v2": _RUNNER_V2,
    "offline": _OFFLINE,
}


def uses_of(minor: str, *parts: Part) -> list[Use]:
    """Return the rows that hold for a minor version; those of all parts where none is named."""
    return [use for part in parts or RELIED_ON for use in RELIED_ON[part] if use.holds_for(minor)]
