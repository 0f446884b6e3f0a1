"""Plain lines that say how far a run is, where its output is read from a file."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

EVERY_SECONDS = 20.0


class ProgressLines:
    """Tells what is done and what runs now every while, and each failure when it happens."""

    def __init__(self, write_fd: int, every_seconds: float = EVERY_SECONDS) -> None:
        self.fd, self.every_seconds = write_fd, every_seconds
        self.total, self.done, self.failed = 0, 0, 0
        self.running: dict[str, float] = {}
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._tell, name="progress lines", daemon=True)

    def pytest_sessionstart(self) -> None:
        """Begin to tell; finding the tests takes a while already."""
        self.thread.start()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """How many there are, in a run of one process."""
        self.total = max(self.total, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """How many there are, which every process tells."""
        self.total = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test runs."""
        self.running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is through."""
        self.running.pop(nodeid, None)
        self.done += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say at once what failed; the whole is told at the end, if the end is reached."""
        if report.failed:
            self.failed += 1
            lines = report.longreprtext.strip().splitlines() or [""]
            reason = next((line for line in lines if line.startswith("E ")), lines[-1])
            self.write(f"FAILED {report.nodeid} ({report.when}): {reason[1:].strip()[:300]}")

    def pytest_sessionfinish(self) -> None:
        """No more lines."""
        self.ended.set()

    def line(self) -> str:
        """The state now."""
        now = time.monotonic()
        running = ", ".join(
            f"{nodeid} ({now - began:.0f} s)" for nodeid, began in list(self.running.items())
        )
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"[{now - self.began:5.0f} s] {self.done} of {self.total or '?'} tests{failed}; "
            f"now {running or 'none'}"
        )

    def write(self, text: str) -> None:
        """One line, past pytest's capture."""
        os.write(self.fd, f"\n{text}\n".encode(errors="backslashreplace"))

    def _tell(self) -> None:
        while not self.ended.wait(self.every_seconds):
            self.write(self.line())


def pytest_configure(config: pytest.Config) -> None:
    """Tell where nobody sits before a terminal; a process of several is told of by the first."""
    if not sys.stdout.isatty() and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ProgressLines(os.dup(1)), "progress-lines")
