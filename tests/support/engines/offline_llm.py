"""`pilothouse.LLM` in the test's own process, on a tiny model."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from vllm.distributed import cleanup_dist_env_and_memory

from pilothouse import LLM
from pilothouse.config import PilothouseConfig
from tests.support.engines.harness import BLOCK, ENVIRONMENT, KV_BYTES, environment


@contextmanager
def offline_llm(
    model: Path, config: PilothouseConfig | None = None, **overrides: Any
) -> Iterator[LLM]:
    """An engine without a tokenizer: prompts are token ids."""
    settings: dict[str, Any] = {
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "max_model_len": 256,
        "distributed_executor_backend": "uni",
        "seed": 0,
        "kv_cache_memory_bytes": KV_BYTES,
        "block_size": BLOCK,
    }
    with environment(ENVIRONMENT):
        torch.set_num_threads(1)
        made = LLM(str(model), pilothouse_config=config, **(settings | overrides))
        try:
            yield made
        finally:
            made.llm_engine.engine_core.shutdown()
            del made
            gc.collect()
            cleanup_dist_env_and_memory()


def worker_of(llm: LLM) -> Any:
    """The guarded worker."""
    return scheduler_of(llm, "model_executor").driver_worker.worker


def scheduler_of(llm: LLM, name: str = "scheduler") -> Any:
    """vLLM's scheduler, or another part of its core."""
    return getattr(llm.llm_engine.engine_core.engine_core, name)
