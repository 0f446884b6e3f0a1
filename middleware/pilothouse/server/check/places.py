"""How many texts of checks are scored at a time, so that a check of many is no burden to requests.

A process scores a few texts side by side, whoever asked. While requests run, a call's texts beyond
the first few go one at a time, with a rest behind each that is several times as long as the text
took: the check's share of the time then stays small, whatever a text costs on this machine. A call
of few texts, which a gateway waits for before each of its requests, never rests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from pilothouse.errors import RequestError

AT_ONCE: Final = 2
UNPACED: Final = 4
"""Texts of a call that never rest."""
MOST_TEXTS: Final = 512
"""Texts of all calls of a process together; a call that comes to an idle one is always taken."""
RESTS: Final = 9.0
"""Times as long as a text took."""
LONGEST_REST: Final = 1.0
"""In seconds."""


class CheckPlaces:
    """Of one API process.

    Args:
        is_busy: whether requests of clients are running.
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._places = asyncio.Semaphore(AT_ONCE)
        self._num_texts = 0

    @contextmanager
    def call(self, num_texts: int) -> Iterator[CallPlaces]:
        """Give the places of one call, for as long as it has texts to be scored.

        Raises:
            RequestError: so many texts wait already that this call would wait for long (503).
        """
        if self._num_texts and self._num_texts + num_texts > MOST_TEXTS:
            raise RequestError(
                f"{self._num_texts} texts of checks are under way here, and at most {MOST_TEXTS} "
                "may be: ask again later",
                status=503,
            )
        self._num_texts += num_texts
        try:
            yield CallPlaces(self._places, self._is_busy)
        finally:
            self._num_texts -= num_texts


class CallPlaces:
    """Of the texts of one call."""

    def __init__(self, places: asyncio.Semaphore, is_busy: Callable[[], bool]) -> None:
        self._places = places
        self._is_busy = is_busy
        self._one_at_a_time = asyncio.Lock()
        self._num_taken = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a place for one text; who rests holds none."""
        self._num_taken += 1
        if self._num_taken <= UNPACED:
            async with self._places:
                yield
            return
        async with self._one_at_a_time:
            async with self._places:
                started = time.monotonic()
                yield
                took = time.monotonic() - started
            if self._is_busy():
                await asyncio.sleep(min(RESTS * took, LONGEST_REST))
