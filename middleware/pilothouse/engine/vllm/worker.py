"""vLLM's own worker of this platform, from which ours is derived."""

from __future__ import annotations

from typing import cast

from vllm.platforms import current_platform

from pilothouse.errors import EngineError


def worker_base() -> type[object]:
    """Return the platform's own worker class."""
    if current_platform.is_cpu():
        from vllm.v1.worker import cpu_worker

        return cast(type[object], cpu_worker.CPUWorker)
    if current_platform.is_cuda():
        from vllm.v1.worker import gpu_worker

        return cast(type[object], gpu_worker.Worker)
    raise EngineError(
        f"platform {current_platform.device_name!r} is not supported: CPU and CUDA are"
    )
