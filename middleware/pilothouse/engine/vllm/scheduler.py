"""vLLM's schedulers as ours is put over them, and the hasher of a request's blocks.

The mixin is named before one of vLLM's: `class Ours(SchedulerMixin, Scheduler)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from pilothouse.engine.vllm.config_protocols import VllmConfig
from pilothouse.engine.vllm.protocols import Request

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
