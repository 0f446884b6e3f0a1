"""vLLM's schedulers as ours is put over them, with the prefix cache and the hasher of blocks.

The mixin is named before one of vLLM's: `class Ours(SchedulerMixin, Scheduler)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.sched.utils import check_stop

from pilothouse.engine.vllm import protocols as shapes
from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.engine.vllm.protocols import KvCacheManager, Request

__all__ = ["AsyncScheduler", "Scheduler", "SchedulerMixin", "wrap_block_hasher"]

BlockHasher = Callable[[Request], list[bytes]]

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler as Base
else:
    Base = object


class SchedulerMixin(Base):
    """What either of vLLM's schedulers is asked by a name that it keeps private."""

    vllm_config: VllmConfig
    requests: dict[str, Request]
    max_model_len: int
    hash_block_size: int

    def may_run(self, request: Request) -> bool:
        """Tell whether a waiting request may run in the step that is being scheduled.

        vLLM asks it of every request that it is about to admit, before it looks for blocks.
        """
        raise NotImplementedError

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        return self.may_run(request) and bool(super()._handle_blocked_waiting_request(request))


def wrap_block_hasher(request: Request, wrap: Callable[[BlockHasher], BlockHasher]) -> None:
    """Have another hasher make a request's block hashes, from its first block on.

    Without prefix caching there is none to wrap. It must happen before the request is admitted,
    for blocks are looked up by their hashes from then on.
    """
    inner = request._block_hasher
    if inner is None:
        return
    request._block_hasher = wrap(inner)
    request.block_hashes.clear()
    request.update_block_hashes()


class Watcher(Protocol):
    """Who bounds what requests take from the prefix cache, and is told of it."""

    def bound(self, request: Request) -> int | None:
        """Return how many leading blocks, counted as its hashes are, it may take; None for all.

        Asked whenever a request looks for blocks that were computed.
        """

    def found(self, request: Request, num_tokens: int) -> None:
        """So many tokens were found. A request that finds no room asks again later."""

    def given(self, request: Request, start: int, stop: int) -> None:
        """Blocks of positions [start, stop) were given out, to be computed in the step to come.

        From then on others find those that are full.
        """


def is_on(scheduler: shapes.Scheduler) -> bool:
    """Tell whether blocks are shared between requests at all."""
    return bool(scheduler.kv_cache_manager.enable_caching)


def watch_prefix_cache(scheduler: shapes.Scheduler, watcher: Watcher) -> None:
    """Have a watcher bound the hits of a scheduler's requests, and tell it of them."""
    manager: KvCacheManager = scheduler.kv_cache_manager
    look, allocate = manager.get_computed_blocks, manager.allocate_slots

    def get_computed_blocks(
        request: Request, *args: object, **kwargs: object
    ) -> tuple[object, int, int]:
        most = watcher.bound(request)
        if most is None or not manager.prefix_cache_lookup_enabled(request):
            answer = look(request, *args, **kwargs)
        else:
            hashes = request.block_hashes
            request.block_hashes = hashes[:most]
            try:
                answer = look(request, *args, **kwargs)
            finally:
                request.block_hashes = hashes
            # Groups with states in place of blocks may end a hit inside a block.
            if answer[1] > most * scheduler.hash_block_size:
                answer = (manager.empty_kv_cache_blocks, 0, 0)
        watcher.found(request, answer[1])
        return answer

    def allocate_slots(
        request: Request,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        *args: object,
        **kwargs: object,
    ) -> object:
        blocks = allocate(request, num_new_tokens, num_new_computed_tokens, *args, **kwargs)
        if blocks is not None:
            start = request.num_computed_tokens + num_new_computed_tokens
            start += cast(int, kwargs.get("num_external_computed_tokens", 0))
            watcher.given(request, start, start + num_new_tokens)
        return blocks

    manager.get_computed_blocks = get_computed_blocks  # type: ignore[method-assign]
    manager.allocate_slots = allocate_slots  # type: ignore[method-assign]


class _Ahead:
    """A request as it will be after some more tokens; only vLLM's check of its end looks at it."""

    def __init__(self, request: Request) -> None:
        params = request.sampling_params
        assert params is not None
        self.pooling_params = None
        self.sampling_params = params
        self.max_tokens = request.max_tokens
        self.num_tokens = request.num_tokens
        self.num_output_tokens = request.num_output_tokens
        self.status: object = None
        self.stop_reason: object = None
        # The whole answer only where it is looked through for repetitions.
        self.output_token_ids: list[int] = (
            list(request.output_token_ids) if params.repetition_detection is not None else []
        )

    def append(self, token_id: int) -> None:
        self.output_token_ids.append(token_id)
        self.num_tokens += 1
        self.num_output_tokens += 1


def num_kept(request: Request, sampled: Sequence[int], max_model_len: int) -> int:
    """Return how many of the sampled tokens the answer will have: up to the one that ends it."""
    ahead = _Ahead(request)
    for count, token_id in enumerate(sampled, start=1):
        ahead.append(token_id)
        if check_stop(ahead, max_model_len):
            return count
    return len(sampled)
