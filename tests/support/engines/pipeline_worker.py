"""Workers for pipeline parallel on CPU.

vLLM 0.32 allocates what a later stage receives into during its warm-up, which its CPU worker
leaves out where nothing is compiled.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed import get_pp_group
from vllm.v1.worker.cpu_worker import CPUWorker

from pilothouse.engine.worker.worker import GuardedWorker


def make_room(runner: Any) -> None:
    """Allocate what vLLM's warm-up would have."""
    if not get_pp_group().is_first_rank:
        runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.dtype, device=runner.device
        )


class PlainStagedWorker(CPUWorker):
    """vLLM's own."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, and make room."""
        super().load_model(*args, **kwargs)
        make_room(self.model_runner)


class StagedWorker(GuardedWorker):
    """The guarded one."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, and make room."""
        super().load_model(*args, **kwargs)
        make_room(self.model_runner)
