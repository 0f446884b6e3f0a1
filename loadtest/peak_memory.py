"""The most memory that a tree of processes takes at once, sampled while it works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 1.0
MIB = 2**20


class PeakMemory:
    """Samples the processes that `family` returns, in a thread, while it is open.

    Attributes:
        resident_mib: the peak of what is resident; pages that processes share count in each.
        proportional_mib: the peak of what they take together; a shared page counts once.
        processes: the most of them at once.
    """

    def __init__(
        self, family: Callable[[], Sequence[psutil.Process]], every_s: float = EVERY_S
    ) -> None:
        self._family = family
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.resident_mib = 0.0
        self.proportional_mib = 0.0
        self.processes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def sample(self) -> None:
        """Look once."""
        resident = proportional = 0
        living = 0
        for each in self._family():
            try:
                found = each.memory_full_info()
            except psutil.Error:  # it has ended meanwhile
                continue
            living += bool(found.rss)
            resident += found.rss
            proportional += found.pss
        self.processes = max(self.processes, living)
        self.resident_mib = max(self.resident_mib, resident / MIB)
        self.proportional_mib = max(self.proportional_mib, proportional / MIB)

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self.sample()
