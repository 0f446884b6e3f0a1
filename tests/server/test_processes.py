"""A server's processes: core and worker are forks of the API server, and hold no port of its."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.support.servers.server_process import ServerProcess

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


def place_of_libc(pid: int) -> str:
    """Where libc lies in a process: a program that starts anew gets another place at random."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return next(line.split("-")[0] for line in maps.splitlines() if "libc.so" in line)


@pytest.mark.skipif(
    Path("/proc/sys/kernel/randomize_va_space").read_text().strip() == "0",
    reason="this kernel puts libraries at the same place in every process",
)
def test_core_and_worker_are_forks(small_server: ServerProcess) -> None:
    api = psutil.Process(small_server.pid)
    workers = [
        each for each in api.children(recursive=True) if "Worker" in " ".join(each.cmdline())
    ]
    assert len(workers) == 1
    core = workers[0].parent()
    assert core is not None and core.parent() == api
    assert place_of_libc(core.pid) == place_of_libc(workers[0].pid) == place_of_libc(api.pid)


def test_the_api_server_alone_holds_the_port(small_server: ServerProcess) -> None:
    api = psutil.Process(small_server.pid)
    holders = [
        each.pid
        for each in (api, *api.children(recursive=True))
        for door in each.net_connections("tcp")
        if door.status == psutil.CONN_LISTEN and door.laddr.port == small_server.port
    ]
    assert holders == [api.pid]
