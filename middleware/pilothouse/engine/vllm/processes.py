"""Which of a server's processes are forks of the API server, which has vLLM imported.

vLLM starts engine core and worker as new programs on a CPU, so that three processes import it
one after the other. That is for the worker's sake: OpenMP reads its number of threads and its cores
from the environment as it is loaded, and a fork has it loaded already. The core computes nothing
with threads, so it may be a fork, as it is in vLLM's own `LLM` on other platforms. So may a worker
that has one thread: there is no pool of threads that a fork would lose, and one thread is bound to
its core by the system's own call.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import stat
import sys
from argparse import Namespace
from importlib.util import find_spec
from multiprocessing.context import BaseContext, ForkContext, ForkProcess
from pathlib import Path
from typing import Final

METHOD: Final = "VLLM_WORKER_MULTIPROC_METHOD"
"""vLLM's own setting; where a user has set it, it is left to hold."""
BINDING: Final = "VLLM_CPU_OMP_THREADS_BIND"
RESERVED: Final = "VLLM_CPU_NUM_OF_RESERVED_CPU"
THREADS: Final = "OMP_NUM_THREADS"
PRELOADED: Final = "LD_PRELOAD"
CORES: Final = ("GOMP_CPU_AFFINITY", "OMP_PLACES")
"""In which vLLM names the cores of a worker that it is about to start."""
CPUS_OF_ONE_THREAD: Final = 2
"""Up to here vLLM gives the worker one thread by itself: it leaves one core to the others."""


def limit_threads() -> None:
    """Give this process one OpenMP thread where vLLM will give the worker one, so that it can fork.

    It must run before torch is imported. A number that the user has set holds.
    """
    if THREADS not in os.environ and _binds_one_thread():
        os.environ[THREADS] = "1"


def may_fork_core(args: Namespace) -> bool:
    """Tell whether the core of a server with these arguments of vLLM's may be a fork.

    It must be asked before vLLM's own set-up, which sets the setting where the user has not.
    """
    from vllm.platforms import current_platform

    return (
        sys.platform == "linux"
        and METHOD not in os.environ
        and bool(current_platform.is_cpu())
        # These replace the program that a new process runs, or start it elsewhere.
        and not getattr(args, "numa_bind", False)
        and "ray"
        not in (
            getattr(args, "distributed_executor_backend", None),
            getattr(args, "data_parallel_backend", None),
        )
    )


def may_fork_worker(args: Namespace) -> bool:
    """Tell whether the worker of a core that is a fork may be one too."""
    is_alone = all(
        getattr(args, f"{kind}_parallel_size", 1) == 1
        for kind in ("tensor", "pipeline", "data", "prefill_context")
    )
    has_one_thread = os.environ.get(THREADS) == "1" and (
        os.environ.get(BINDING) == "nobind" or _binds_one_thread()
    )
    # Another OpenMP has settings of its own, and a memory allocator must be there from the start.
    preloaded = os.environ.get(PRELOADED, "")
    wants_preloaded = "libiomp" in preloaded or "libomp" in preloaded or _brings_an_allocator()
    return is_alone and has_one_thread and not wants_preloaded


def fork_processes(*, worker: bool) -> None:
    """Have vLLM fork engine cores in this process, and their workers where that is asked for."""
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    utils.get_mp_context = _fork
    if worker:
        multiproc_executor.get_mp_context = _fork_bound
    os.register_at_fork(after_in_child=_part_from_parent)


def _binds_one_thread() -> bool:
    return (
        os.environ.get(BINDING, "auto") == "auto"
        and RESERVED not in os.environ
        and len(os.sched_getaffinity(0)) <= CPUS_OF_ONE_THREAD
    )


def _brings_an_allocator() -> bool:
    """Tell whether vLLM's package has the allocator in it that it preloads into workers."""
    found = find_spec("vllm")
    places = [] if found is None else found.submodule_search_locations or []
    return any(any(Path(each, "libs").glob("libtcmalloc*")) for each in places)


def _fork() -> BaseContext:
    return multiprocessing.get_context("fork")


class _BoundProcess(ForkProcess):
    def run(self) -> None:
        """Run on the cores that the environment names, as OpenMP would have from its start."""
        named = next((os.environ[each] for each in CORES if each in os.environ), "")
        cores = {int(each) for each in re.findall(r"\d+", named)}
        if cores:
            os.sched_setaffinity(0, cores)
        super().run()


class _BoundContext(ForkContext):
    Process = _BoundProcess


def _fork_bound() -> BaseContext:
    return _BoundContext()


def _part_from_parent() -> None:
    """Leave to the parent, in a fork of it, what is the parent's alone.

    Its event loop has Python write each signal into a pipe, which the fork would share. And a port
    stays taken as long as any process holds the socket that listens there.
    """
    signal.set_wakeup_fd(-1)
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if _is_door(number):
            os.close(number)


def _is_door(number: int) -> bool:
    """Tell whether a descriptor is a stream socket that is bound or listens, not connected."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        with socket.socket(fileno=os.dup(number)) as door:
            if door.type != socket.SOCK_STREAM:
                return False
            try:
                door.getpeername()
            except OSError:
                return bool(door.getsockname())
            return False
    except OSError:  # it was closed meanwhile, as the listing's own descriptor is
        return False
