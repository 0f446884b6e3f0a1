"""How a run ends early: by Ctrl-C or a signal, and without leaving a server behind."""

from __future__ import annotations

import signal
import sys
from types import FrameType

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """Somebody asked the run to end."""


def end_servers_when_interrupted() -> None:
    """Have signals raise `Interrupted` in the main thread, where `finally` stops the servers."""
    for number in ENDINGS:
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # so that a second one cannot leave a server behind
    raise Interrupted


def say(text: str) -> None:
    """A line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
