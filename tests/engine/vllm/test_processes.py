"""Engine core and worker are forks where that is safe, and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from typing import Any

import pytest
from vllm.platforms import current_platform

from pilothouse.engine.vllm import processes
from pilothouse.engine.vllm.processes import (
    METHOD,
    fork_processes,
    limit_threads,
    may_fork_core,
    may_fork_worker,
)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (METHOD, "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(processes, "_brings_an_allocator", lambda: False)


def args(**changes: Any) -> Namespace:
    return Namespace(numa_bind=False, distributed_executor_backend=None, **changes)


def test_on_a_cpu_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_fork_core(args())
    assert may_fork_core(args(data_parallel_backend="mp"))
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    assert not may_fork_core(args())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_method_that_the_user_chose_holds(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(METHOD, method)
    assert not may_fork_core(args())


@pytest.mark.parametrize(
    "changes",
    [
        {"numa_bind": True},
        {"distributed_executor_backend": "ray"},
        {"data_parallel_backend": "ray"},
    ],
)
def test_what_begins_a_process_in_another_way_is_left(changes: dict[str, Any]) -> None:
    assert not may_fork_core(Namespace(**(vars(args()) | changes)))


def test_elsewhere_than_on_linux_it_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    assert not may_fork_core(args())


def test_a_worker_with_one_thread_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_fork_worker(args())
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert not may_fork_worker(args())
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    assert may_fork_worker(args())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert not may_fork_worker(args())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_NUM_THREADS", "2"),
        ("VLLM_CPU_OMP_THREADS_BIND", "0-1"),
        ("VLLM_CPU_NUM_OF_RESERVED_CPU", "0"),
        ("LD_PRELOAD", "/usr/lib/libiomp5.so"),
    ],
)
def test_a_worker_that_reads_its_environment_is_a_program(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert not may_fork_worker(args())


def test_workers_beside_others_and_with_an_allocator_are_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not may_fork_worker(args(tensor_parallel_size=2))
    monkeypatch.setattr(processes, "_brings_an_allocator", lambda: True)
    assert not may_fork_worker(args())


@pytest.mark.parametrize(
    ("cores", "said", "threads"), [(2, None, "1"), (2, "3", "3"), (8, None, None), (8, "4", "4")]
)
def test_threads_are_limited_where_vllm_would_and_nobody_said(
    cores: int, said: str | None, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(("worker", "method"), [(True, "fork"), (False, "spawn")])
def test_vllm_is_given_forks_of_what_may_be_one(
    worker: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    for module in (utils, multiproc_executor):
        monkeypatch.setattr(module, "get_mp_context", module.get_mp_context)
    hooks: list[object] = []
    monkeypatch.setattr(
        processes.os, "register_at_fork", lambda after_in_child: hooks.append(after_in_child)
    )
    monkeypatch.setenv(METHOD, "spawn")
    fork_processes(worker=worker)
    assert utils.get_mp_context().get_start_method() == "fork"
    assert multiproc_executor.get_mp_context().get_start_method() == method
    assert hooks == [processes._part_from_parent]


FORKS = """
import json, os, signal, socket, sys
from pilothouse.engine.vllm.processes import _fork, _fork_bound, _part_from_parent

def told(pipe):
    left = {name for name in held if is_open(name)}
    pipe.send([sorted(left), sorted(os.sched_getaffinity(0)), signal.set_wakeup_fd(-1)])

def is_open(name):
    number, inode = held[name]
    try:
        return os.fstat(number).st_ino == inode  # the number may be another file's by now
    except OSError:
        return False

door = socket.socket()
door.bind(("127.0.0.1", 0))
line, other = socket.socketpair()
line.setblocking(False)
held = {
    name: (each.fileno(), os.fstat(each.fileno()).st_ino)
    for name, each in (("door", door), ("line", line))
}
signal.set_wakeup_fd(line.fileno())
os.register_at_fork(after_in_child=_part_from_parent)
os.environ["GOMP_CPU_AFFINITY"] = str(min(os.sched_getaffinity(0)))
for context in (_fork(), _fork_bound()):
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=told, args=(writer,))
    process.start()
    print(json.dumps([context.get_start_method(), *reader.recv()]))
    process.join()
print(json.dumps([is_open("door"), signal.set_wakeup_fd(-1) == line.fileno()]))
"""


def test_a_fork_lets_go_of_the_port_and_of_the_event_loop_and_a_worker_takes_its_core() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=240, check=True
    )
    core, worker, parent = (json.loads(line) for line in done.stdout.splitlines()[-3:])
    everywhere, [first, *_] = sorted(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(0))
    assert core == ["fork", ["line"], everywhere, -1]
    assert worker == ["fork", ["line"], [first], -1]
    assert parent == [True, True]
