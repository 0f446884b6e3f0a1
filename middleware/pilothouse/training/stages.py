"""The stages of a fit: told of while they run, and what each cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from pilothouse.progress import Advance, Phase
from pilothouse.training.report import Stage

Tell = Callable[[int | None], Advance]
"""Begins a stretch of a stage: of so many texts, or of an unknown number where it is None."""

READING, ENGINE, ANSWERS, STATES, DIRECTIONS = (
    "reading",
    "engine",
    "answers",
    "states",
    "directions",
)
SWEEP, SCREEN, SEARCH, CONTROLS, TEST = "sweep", "screen", "search", "controls", "test"
TUNED = ("tuned engine", "tuned states")


class Counts(Protocol):
    """What an engine has been given so far: texts, and tokens that it computed."""

    texts: int
    tokens: int


class Clock(NamedTuple):
    """Seconds that passed, and those that this process computed, from some beginning on."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clock:
        """Read both clocks."""
        return cls(time.monotonic(), time.process_time())

    def stage(self, name: str, texts: int = 0, tokens: int = 0) -> Stage:
        """Return a stage that began then and ends now."""
        now = Clock.now()
        return Stage(
            name=name,
            texts=texts,
            tokens=tokens,
            seconds=round(now.wall - self.wall, 1),
            cpu_seconds=round(now.cpu - self.cpu, 1),
        )


class Stages:
    """Numbers the stages, and keeps their cost.

    Args:
        phase: called with each stage's title and size.
        names: the names of the stages to come.
        began: when the verb was called; up to now it read files.
    """

    def __init__(self, phase: Phase, names: Sequence[str], began: Clock) -> None:
        self._phase, self._names = phase, tuple(names)
        self.done = [began.stage(READING)]

    @contextmanager
    def stage(self, name: str, counts: Counts | None = None) -> Iterator[Tell]:
        """Run one of the stages; its tokens are those that `counts` goes up by."""
        place = self._names.index(name) + 1
        title = f"{name} (stage {place} of {len(self._names)})"
        began = Clock.now()
        texts, tokens = (counts.texts, counts.tokens) if counts else (0, 0)
        yield lambda total: self._phase(title, total)
        if counts:
            texts, tokens = counts.texts - texts, counts.tokens - tokens
        self.done.append(began.stage(name, texts, tokens))
