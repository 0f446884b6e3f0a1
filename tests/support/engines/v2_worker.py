"""The guarded worker on vLLM's second model runner without a GPU; see `triton_cpu`."""

from __future__ import annotations

from pilothouse.engine.worker.worker import GuardedWorker


class V2GuardedWorker(GuardedWorker):
    """Takes the stand-in backend out once vLLM has chosen its runner."""

    def init_device(self) -> None:
        """As vLLM, without the stand-in."""
        import triton.backends as backends

        backends.backends.pop("cpu", None)
        super().init_device()
