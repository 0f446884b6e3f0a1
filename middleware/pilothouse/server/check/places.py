"""How many texts of checks are scored at a time, so that a check of many is no burden to requests.

A process scores a few texts side by side, whoever asked. While requests run, a call's texts beyond
the first few go one at a time, with a rest behind each that is several times as long as the text
took: the check's share of the time then stays small, whatever a text costs on this machine. A call
of few texts, which a gateway waits for before each of its requests, never rests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

AT_ONCE: Final = 2
UNPACED: Final = 4
"""Texts of a call that never rest."""
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

    def call(self) -> CallPlaces:
        """Return the places of one call."""
        return CallPlaces(self._places, self._is_busy)


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
