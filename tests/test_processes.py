"""Tests over several processes: who runs what, what a reader of the output sees, how it ends."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from tests.support.engines.frozen_imports import frozen_imports
from tests.support.progress_lines import ProgressLines
from tests.support.xdist_groups import SHARED_SERVERS, group_of, process_count, weight_of

TESTS = Path(__file__).parent
GIB = 1 << 30


def test_there_is_a_process_for_each_core_that_has_memory() -> None:
    assert process_count(2, 23 * GIB) == 2
    assert process_count(16, 23 * GIB) == 5
    assert process_count(2, 0) == 1


def test_files_that_ask_for_one_server_are_one_group_and_others_are_alone() -> None:
    small = {group_of(TESTS / each) for each in ("server/test_http.py", "server/test_survival.py")}
    assert small == {"small_server"}
    assert group_of(TESTS / "deploy" / "test_live.py") == "demo_server"
    alone = TESTS / "policy" / "test_lint.py"
    assert group_of(alone) == alone.as_posix()


def test_no_file_asks_for_two_shared_servers() -> None:
    """It would have a second one started in the process of its first."""
    texts = {each: each.read_text() for each in TESTS.rglob("test_*.py") if each != Path(__file__)}
    both = [
        each.name for each, text in texts.items() if all(name in text for name in SHARED_SERVERS)
    ]
    assert both == []


def test_what_takes_longest_runs_first() -> None:
    assert weight_of("small_server", ()) < weight_of("x.py", ("engine",)) < weight_of("x.py", ())


def test_a_line_says_how_far_it_is_and_what_runs_and_failures_come_at_once() -> None:
    reading, writing = os.pipe()
    lines = ProgressLines(writing, every_seconds=0.01)
    lines.total = 3
    for nodeid in ("a", "b", "c"):
        lines.pytest_runtest_logstart(nodeid)
    lines.pytest_runtest_logfinish("a")
    failed = pytest.TestReport(
        "b", ("b.py", 1, "b"), {}, "failed", "def test():\nE   AssertionError: no", "call"
    )
    lines.pytest_runtest_logreport(failed)
    lines.pytest_sessionstart()
    time.sleep(0.2)
    lines.pytest_sessionfinish()
    lines.thread.join()
    os.close(writing)
    with os.fdopen(reading) as file:
        said = [line for line in file.read().splitlines() if line]
    assert said[0] == "FAILED b (call): AssertionError: no"
    assert "1 of 3 tests, 1 failed; now b (0 s), c (0 s)" in said[1]


def test_what_was_imported_stays_frozen_and_what_is_made_is_collected() -> None:
    class Node:
        other: object

    with frozen_imports():
        gc.unfreeze()
        assert gc.get_freeze_count() > 1000
        one = Node()
        one.other = one
        gone = weakref.ref(one)
        gc.freeze()
        del one
        gc.collect()
        assert gone() is None


STARTS = """
import subprocess, sys
from tests.support.servers.server_process import interrupt_with_parent

CODE = '''
import time
try:
    print("ready", flush=True)
    time.sleep(300)
except KeyboardInterrupt:
    print("interrupted")
'''
started = subprocess.Popen(
    [sys.executable, "-c", CODE], start_new_session=True, preexec_fn=interrupt_with_parent
)
print(started.pid, flush=True)
started.wait()
"""


def test_a_server_ends_with_the_process_that_started_it() -> None:
    """However that ends: xdist gives an interrupted one some seconds, then kills it."""
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    lines = {parent.stdout.readline().strip() for _ in range(2)}
    [pid] = lines - {"ready"}
    try:
        parent.kill()
        assert parent.stdout.read() == "interrupted\n"
    finally:
        parent.kill()
        parent.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
