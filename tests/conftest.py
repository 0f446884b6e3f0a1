"""Servers for the whole run: real processes, real HTTP, each started once when first asked for."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Models are tiny, and processes run side by side: one thread each. Native code reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.support.engines.frozen_imports import frozen_imports
from tests.support.servers.server_process import ServerProcess, demo_process, serve_process
from tests.support.servers.tiny_deployment import KNOWN_ORIGIN, SERVED_NAME, make_tiny_house

pytest_plugins = (
    "tests.support.progress_lines",
    "tests.support.xdist_groups",
    "tests.support.unit_tier",
)

# A loaded machine must not fail a property: examples have no deadline.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts what is to run in the background deaf to Ctrl-C, and so is what that starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _imports_are_frozen() -> Iterator[None]:
    """Engines of a module's tests do not look for garbage among all that was imported."""
    with frozen_imports():
        yield


@pytest.fixture
def caplog(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """As pytest's, whatever an engine in this process told vLLM's logger, above ours."""
    above = logging.getLogger("vllm")
    monkeypatch.setattr(above, "propagate", True)
    before = above.level
    above.setLevel(logging.NOTSET)  # an engine of a test prints errors alone
    yield caplog
    above.setLevel(before)


@pytest.fixture(scope="session")
def tiny_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pilothouse.yaml of the tiny model, whose verdicts are certain."""
    return make_tiny_house(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="session")
def small_server(
    tiny_house: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """`pilothouse serve` on the tiny model, clients granted steering and scores.

    A middleware that compresses stands between the gate and vLLM, as operators have them.
    """
    log = tmp_path_factory.mktemp("small") / "server.txt"
    origins = f'--allowed-origins=["{KNOWN_ORIGIN}"]'
    compressing = "--middleware=starlette.middleware.gzip.GZipMiddleware"
    with serve_process(tiny_house, SERVED_NAME, log, origins, compressing) as server:
        yield server


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`pilothouse demo --world` as a user starts it, on a free port."""
    with demo_process(tmp_path_factory.mktemp("demo") / "server.txt") as server:
        yield server
