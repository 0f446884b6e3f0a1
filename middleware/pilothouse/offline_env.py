"""Environment of the engine behind an offline verb: quiet, and small where it runs on a CPU."""

from __future__ import annotations

import os

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1"}
"""GiB of KV cache. vLLM takes it for more than any flag that says the same."""


def set_offline_env(*, in_process: bool, small: bool = True) -> None:
    """Set what vLLM reads from the environment, where the user has not.

    Args:
        in_process: have the engine in this process and not in one of its own.
        small: bound the KV cache; false where the verb bounds it by a flag.
    """
    own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if in_process else {}
    for name, value in (QUIET | (SMALL if small else {}) | own).items():
        os.environ.setdefault(name, value)
