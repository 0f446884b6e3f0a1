"""Shows how far a long verb has come: bars on a terminal, a plain line now and then elsewhere.

A thread of its own prints the lines, so that they also come while one step takes long.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EVERY_SECONDS = 15.0
"""Seconds between two plain lines; work that is done before the first has none."""

Advance = Callable[[int], None]
"""Called with how many more steps are done."""

Phase = Callable[[str, int | None], Advance]
"""Begins a stretch of work; the number of its steps is None where nobody knows it."""

Wait = Callable[[str], AbstractContextManager[object]]
"""Shows a stretch of work that nobody can count, for as long as the block lasts."""


def silent_phase(_: str, __: int | None) -> Advance:
    """Begin a stretch of work that is shown nowhere; a `Phase`."""
    return lambda _count: None


def silent_wait(_: str) -> AbstractContextManager[object]:
    """Show nothing; a `Wait`."""
    return nullcontext()


@contextmanager
def progress(
    *, shown: bool = True, stays: bool = True, every_seconds: float = EVERY_SECONDS
) -> Iterator[Phase]:
    """Give what to call when a stretch of work begins; it is shown on stderr while it lasts.

    Args:
        shown: false for nothing at all.
        stays: whether bars are left standing at the end.
        every_seconds: between two lines where stderr is no terminal.
    """
    if not shown:
        yield silent_phase
    elif sys.stderr.isatty():
        with _bars(stays) as phase:
            yield phase
    else:
        with _lines(sys.stderr, every_seconds) as phase:
            yield phase


@contextmanager
def waiting(title: str, *, every_seconds: float = EVERY_SECONDS) -> Iterator[None]:
    """Show one stretch of work that nobody can count."""
    with progress(stays=False, every_seconds=every_seconds) as phase:
        phase(title, None)
        yield


@contextmanager
def _bars(stays: bool) -> Iterator[Phase]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=not stays) as bars:
        uncounted: list[TaskID] = []

        def phase(title: str, total: int | None) -> Advance:
            while uncounted:
                bars.update(uncounted.pop(), total=1, completed=1)
            task = bars.add_task(title, total=total)
            if total is None:
                uncounted.append(task)
            return lambda count: bars.advance(task, count)

        yield phase


@dataclass
class _Stretch:
    title: str
    total: int | None
    started: float = field(default_factory=time.monotonic)
    done: int = 0

    def __str__(self) -> str:
        seconds = time.monotonic() - self.started
        count = "" if self.total is None else f"{self.done} of {self.total}, "
        return f"{self.title}: {count}{_clock(seconds)}{self._left(seconds)}"

    def _left(self, seconds: float) -> str:
        """Return about how long the rest takes, if it goes on as it went so far."""
        if self.total is None or not 0 < self.done < self.total:
            return ""
        return f", about {_clock(seconds * (self.total - self.done) / self.done)} left"

    def advance(self, count: int) -> None:
        self.done += count


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@contextmanager
def _lines(stream: TextIO, every_seconds: float) -> Iterator[Phase]:
    now: list[_Stretch] = []
    over = threading.Event()

    def print_lines() -> None:
        while not over.wait(every_seconds):
            if now:
                # A reader that went away must not end the work.
                try:
                    stream.write(f"{now[-1]}\n")
                    stream.flush()
                except (OSError, ValueError):
                    return

    def phase(title: str, total: int | None) -> Advance:
        now.append(_Stretch(title, total))
        return now[-1].advance

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield phase
    finally:
        over.set()
        printer.join()
