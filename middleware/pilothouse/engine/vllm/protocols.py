"""What is used of vLLM's objects, and nothing else, as types: requests, scheduler, outputs, engine.

`relied_on` names the class of vLLM's behind each. A method's parameters are those that we give, in
vLLM's order and by vLLM's names; one that takes `*args` and `**kwargs` is handed on as it came.
`replaced` stands where vLLM calls a function of ours in place of its own, which must then take all
that vLLM's takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from pilothouse.engine.vllm.config_protocols import VllmConfig

Call = TypeVar("Call", bound=Callable[..., Any])

REPLACED = "__replaced__"


def replaced(function: Call) -> Call:
    """Mark a method in whose place vLLM calls ours."""
    setattr(function, REPLACED, True)
    return function


class SamplingParams(Protocol):
    """How a request is sampled; `extra_args` has our signed request."""

    extra_args: dict[str, Any] | None
    stop: object
    repetition_detection: object


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
    block_hashes: list[bytes]
    skip_reading_prefix_cache: bool
    resumable: bool
    _block_hasher: Callable[[Request], list[bytes]] | None

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

    scheduled_new_reqs: list[NewRequestData]
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
    new_logprobs: LogprobsLists | None
    new_prompt_logprobs_tensors: object
    finish_reason: object
    stop_reason: int | str | None
    events: object
    kv_transfer_params: dict[str, Any] | None
    trace_headers: Mapping[str, str] | None
    prefill_stats: object
    prompt_token_id_logprobs: object


class EngineCoreOutputs(Protocol):
    """The outputs of a step for one API process."""

    outputs: list[object]


class LogprobsLists(Protocol):
    """Log-probabilities of a step's tokens, a row for each."""

    logprob_token_ids: np.ndarray
    logprobs: np.ndarray
    sampled_token_ranks: np.ndarray


class KvCacheManager(Protocol):
    """Who finds blocks that were computed and gives out new ones."""

    enable_caching: bool
    empty_kv_cache_blocks: object

    @replaced
    def get_computed_blocks(
        self, request: Request, *args: object, **kwargs: object
    ) -> tuple[object, int, int]: ...

    @replaced
    def allocate_slots(
        self,
        request: Request,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        *args: object,
        **kwargs: object,
    ) -> object: ...

    def prefix_cache_lookup_enabled(self, request: object) -> bool: ...


class Scheduler(Protocol):
    """vLLM's scheduler, over which ours is a mixin.

    `_handle_blocked_waiting_request` is asked of each waiting request whether it may run now.
    """

    vllm_config: VllmConfig
    requests: dict[str, Request]
    max_model_len: int
    hash_block_size: int
    kv_cache_manager: KvCacheManager

    @replaced
    def add_request(self, request: object) -> None: ...

    @replaced
    def schedule(self, *args: object, **kwargs: object) -> object: ...

    @replaced
    def update_from_output(
        self, scheduler_output: object, model_runner_output: object
    ) -> object: ...

    @replaced
    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: object
    ) -> list[object]: ...

    @replaced
    def reset_prefix_cache(self, *args: object, **kwargs: object) -> bool: ...

    @replaced
    def has_requests(self) -> bool: ...

    @replaced
    def _handle_blocked_waiting_request(self, request: object) -> bool: ...


class EngineCore(Protocol):
    """The process of the scheduler; utility calls look their method up on it by name."""

    scheduler: Any


class LogprobsProcessor(Protocol):
    """What an answer tells of log-probabilities."""

    prompt_logprobs: list[object] | None


class RequestState(Protocol):
    """A request in an API process."""

    external_req_id: str
    request_index: int
    prompt_len: int
    logprobs_processor: LogprobsProcessor | None


class OutputProcessor(Protocol):
    """Who makes answers of outputs in an API process."""

    request_states: dict[str, RequestState]

    @replaced
    def process_outputs(
        self, engine_core_outputs: Sequence[object], *args: object, **kwargs: object
    ) -> object: ...


class AsyncEngineClient(Protocol):
    """An API process's connection to the engine cores."""

    client_index: int


class SyncEngineClient(Protocol):
    """The offline engine's connection to a core in a process of its own."""

    resources: ClientResources

    def call_utility(self, method: str, *args: object) -> object: ...


class ClientResources(Protocol):
    """What the connection holds; the flag is set when a process has died."""

    engine_dead: bool


class InprocClient(Protocol):
    """The offline engine's core in the same process."""

    engine_core: object


class EngineClient(Protocol):
    """What every connection has."""

    def shutdown(self) -> None: ...


class AsyncLLM(Protocol):
    """The engine behind a server."""

    engine_core: Any


class LLMEngine(Protocol):
    """The engine behind vLLM's `LLM`."""

    engine_core: Any
    vllm_config: VllmConfig

    def step(self) -> Sequence[RequestOutput]: ...

    def has_unfinished_requests(self) -> bool: ...

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None: ...


class RequestOutput(Protocol):
    """What a prompt's request has got so far; `pilothouse` is ours."""

    request_id: str
    finished: bool
    prompt_token_ids: list[int] | None
    outputs: list[Any]


class Llm(Protocol):
    """vLLM's `LLM`."""

    llm_engine: LLMEngine

    def collective_rpc(self, method: str, *, args: tuple[object, ...]) -> list[Any]: ...


class Tokenizer(Protocol):
    """A model's tokenizer, as far as it is used here."""

    bos_token: str | None
    bos_token_id: int | None
    all_special_ids: list[int]

    def get_added_vocab(self) -> dict[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...

    def apply_chat_template(self, conversation: object, **kwargs: object) -> list[int]: ...
