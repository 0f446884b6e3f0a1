"""What is used of vLLM's objects, and nothing else, as types: requests, scheduler, outputs, engine.

`relied_on` names the class of vLLM's behind each. A method's parameters are those that we give, in
vLLM's order and by vLLM's names; one that takes `*args` and `**kwargs` is handed on as it came.
`replaced` stands where vLLM calls a function of ours in place of its own, which must then take all
that vLLM's takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

Call = TypeVar("Call", bound=Callable[..., Any])

REPLACED = "__replaced__"


def replaced(function: Call) -> Call:
    """Mark a method in whose place vLLM calls ours."""
    setattr(function, REPLACED, True)
    return function


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
