"""Servers for the whole run: real processes, real HTTP, each started once when first asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Models are tiny, and processes run side by side: one thread each. Native code reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.support.forking.client import run_folder
from tests.support.server_process import ServerProcess, demo_process, serve_process
from tests.support.tiny_house import KNOWN_ORIGIN, SERVED_NAME, make_tiny_house

# A shell starts what is to run in the background deaf to Ctrl-C, and so is what that starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pilothouse.yaml of the tiny model, whose verdicts are certain."""
    return make_tiny_house(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="session")
def small_server(
    tiny_house: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """`pilothouse serve` on the tiny model, clients granted steering and scores."""
    log = tmp_path_factory.mktemp("small") / "server.txt"
    origins = f'--allowed-origins=["{KNOWN_ORIGIN}"]'
    with serve_process(tiny_house, SERVED_NAME, log, origins) as server:
        yield server


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`pilothouse demo` as a user starts it, on a free port."""
    with demo_process(tmp_path_factory.mktemp("demo") / "server.txt") as server:
        yield server


def pytest_configure() -> None:
    """Name the run's folder before processes that share it start."""
    run_folder()


SHARED_SERVERS = ("small_server", "demo_server")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes run tests: what shares a server or a file goes to one of them.

    Long groups come first, so that no process is left with one at the end.
    """
    if not (config.getoption("dist", "no") == "loadgroup" or hasattr(config, "workerinput")):
        return
    for item in items:
        shared = [name for name in SHARED_SERVERS if name in getattr(item, "fixturenames", ())]
        item.add_marker(pytest.mark.xdist_group(shared[0] if shared else item.path.as_posix()))
    items.sort(key=_weight)


def _weight(item: pytest.Item) -> int:
    """0 for what needs a server of the run, 1 for another server or an engine, 2 for the rest."""
    if any(name in getattr(item, "fixturenames", ()) for name in SHARED_SERVERS):
        return 0
    return 1 if any(item.get_closest_marker(name) for name in ("server", "engine")) else 2
