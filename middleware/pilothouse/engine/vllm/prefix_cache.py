"""The prefix cache: which hits a request may have, and blocks as they are given out."""

from __future__ import annotations

from typing import Protocol, cast

from pilothouse.engine.vllm.protocols import KvCacheManager, Request, Scheduler


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


def is_on(scheduler: Scheduler) -> bool:
    """Tell whether blocks are shared between requests at all."""
    return bool(scheduler.kv_cache_manager.enable_caching)


def watch_prefix_cache(scheduler: Scheduler, watcher: Watcher) -> None:
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
