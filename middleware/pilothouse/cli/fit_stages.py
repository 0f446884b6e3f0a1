"""The stages of a fit: told of while they run, and what each cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pilothouse.contrast.report import Stage
from pilothouse.progress import Advance, Phase

Tell = Callable[[int | None], Advance]
"""Begins a stretch of a stage, of so many texts or of nobody knows how many."""

READING, ENGINE, ANSWERS, STATES, DIRECTIONS = (
    "reading", "engine", "answers", "states", "directions",
)  # fmt: skip
SWEEP, SCREEN, SEARCH, CONTROLS, TEST = "sweep", "screen", "search", "controls", "test"
TUNED = ("tuned engine", "tuned states")


class Counts(Protocol):
    """What an engine has been given so far: texts, and tokens that it computed."""

    texts: int
    tokens: int


class Stages:
    """Numbers the stages, and keeps their cost.

    Args:
        names: of those to come.
        began: when the verb was called, by `time.monotonic`; up to now it read files.
    """

    def __init__(self, phase: Phase, names: Sequence[str], began: float) -> None:
        self._phase, self._names = phase, tuple(names)
        self.done = [
            Stage(name=READING, texts=0, tokens=0, seconds=_rounded(time.monotonic() - began))
        ]

    @contextmanager
    def stage(self, name: str, counts: Counts | None = None) -> Iterator[Tell]:
        """One of the stages, while it lasts; its tokens are those that `counts` goes up by."""
        place = self._names.index(name) + 1
        title = f"{name} (stage {place} of {len(self._names)})"
        began = time.monotonic()
        texts, tokens = (counts.texts, counts.tokens) if counts else (0, 0)
        yield lambda total: self._phase(title, total)
        self.done.append(
            Stage(
                name=name,
                texts=counts.texts - texts if counts else 0,
                tokens=counts.tokens - tokens if counts else 0,
                seconds=_rounded(time.monotonic() - began),
            )
        )


def _rounded(seconds: float) -> float:
    return round(seconds, 1)
