"""Processes that a forked program spawns are forked too, from a copy of it made before it ran.

A program made by `enter` starts with a child that only waits: Python's own fork server, on modules
that are imported already. `multiprocessing` asks it where it would spawn, and hands the environment
of that moment over, as an interpreter started anew would inherit it. vLLM's engine core and workers
are not among them: vLLM sets a variable that Inductor's import looks up before it spawns them.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.popen_forkserver
import os
import signal
import socket
from multiprocessing import connection, forkserver, resource_tracker, spawn
from multiprocessing.context import SpawnProcess
from typing import Any

from tests.support.forking.environment import SET_FOR_WORKERS, Imported

ENVIRONMENT = "tests_environment"


def serve_spawns(imported: Imported) -> None:
    """Fork the waiting child, and have `multiprocessing` spawn from it.

    Where a program has changed what the imports looked up, it spawns a fresh interpreter.
    """
    spawned, prepared, data_of = SpawnProcess._Popen, spawn.prepare, spawn.get_preparation_data
    server = forkserver._forkserver  # type: ignore[attr-defined]

    def _popen(process: Any) -> Any:
        if imported.disagreements(os.environ, SET_FOR_WORKERS):
            return spawned(process)
        return multiprocessing.popen_forkserver.Popen(process)

    def get_preparation_data(name: str) -> dict[str, Any]:
        return data_of(name) | {ENVIRONMENT: dict(os.environ)}

    def prepare(data: dict[str, Any]) -> None:
        from tests.support.forking.program import adopt, draw_anew

        adopt(data.pop(ENVIRONMENT))
        draw_anew()
        prepared(data)

    def ensure_running() -> None:
        resource_tracker.ensure_running()

    SpawnProcess._Popen = staticmethod(_popen)  # type: ignore[assignment]
    spawn.get_preparation_data = get_preparation_data
    spawn.prepare = prepare
    server.ensure_running = ensure_running
    with socket.socket(socket.AF_UNIX) as listener:
        address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        listener.bind(address)
        listener.listen()
        alive_r, alive_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(alive_w)
            _wait_for_spawns(listener.detach(), alive_r)
        os.close(alive_r)
    server._forkserver_address = address
    server._forkserver_alive_fd = alive_w
    atexit.register(_end, pid, os.getpid())


def _wait_for_spawns(listener: int, alive_r: int) -> None:
    """Never returns; ends with the last process that holds the other end of the pipe."""
    try:
        forkserver.main(listener, alive_r, preload=[])
    finally:
        os._exit(0)


def _end(pid: int, of: int) -> None:
    """End and reap the waiting child, unless this is a fork of the process that made it."""
    if os.getpid() == of:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
