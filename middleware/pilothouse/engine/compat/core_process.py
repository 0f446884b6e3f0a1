"""The engine core of a server on a CPU is a fork of the API server, which has vLLM imported.

vLLM 0.32 starts engine core and workers as new programs on a CPU, so that three processes import
vLLM one after the other. A worker must be one: its OpenMP reads threads and cores from the
environment as it is loaded. The core only schedules, and a fork of it is what vLLM's own `LLM`
makes on other platforms.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from argparse import Namespace
from multiprocessing.context import BaseContext
from typing import Final

METHOD: Final = "VLLM_WORKER_MULTIPROC_METHOD"
"""vLLM's own setting; where a user has set it, it is left to hold."""


def may_fork(args: Namespace) -> bool:
    """Whether the core of a server with these arguments of vLLM's may be a fork.

    It must be asked before vLLM's own set-up, which sets the setting where the user has not.
    """
    from vllm.platforms import current_platform

    return (
        sys.platform == "linux"
        and METHOD not in os.environ
        and bool(current_platform.is_cpu())
        # These replace the program that a new process runs, or start it elsewhere.
        and not getattr(args, "numa_bind", False)
        and "ray" not in (
            getattr(args, "distributed_executor_backend", None),
            getattr(args, "data_parallel_backend", None),
        )
    )  # fmt: skip


def fork_the_core() -> None:
    """Have vLLM fork engine cores in this process; workers stay programs of their own."""
    from vllm.v1.engine import utils

    utils.get_mp_context = _fork  # type: ignore[assignment]
    os.register_at_fork(after_in_child=_deaf_to_the_loop)


def _fork() -> BaseContext:
    return multiprocessing.get_context("fork")


def _deaf_to_the_loop() -> None:
    """Keep a child's signals out of the event loop that it inherits.

    The loop has Python write each signal into a pipe, which the child shares with its parent.
    """
    signal.set_wakeup_fd(-1)
