"""Which edits each position of one request gets. Replay after preemption and cache keys read it."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import attrgetter, itemgetter


@dataclass(frozen=True, slots=True)
class Edit:
    """Positions [start, stop) edited by a program (content digest) at a coefficient."""

    start: int
    stop: int
    digest: str
    coefficient: float
    stage: str


FOREVER = 1 << 60
NOTHING = ((0.0).hex(), (-0.0).hex())

Part = tuple[str, str, str, int, int]
"""Stage, program digest, coefficient, first and one past the last place inside a block."""


Track = tuple[str, str, str]
"""Stage, program digest, coefficient."""


class Timeline:
    """Edits of one request: its own, which do not overlap, and the policies'.

    A key costs the edits that touch its block, whatever came before: policies' edits are kept as
    stretches that neither overlap nor touch, for each thing that is done.
    """

    def __init__(self, imposed: Iterable[Edit] = ()) -> None:
        self.requested: list[Edit] = []
        self._imposed: dict[Track, list[tuple[int, int]]] = {}
        for edit in imposed:
            self.impose(edit)

    def request(self, edits: Iterable[Edit], since: int = 0) -> None:
        """The request's own edits from position `since` on, ascending and apart from each other."""
        own = self.requested
        while own and own[-1].start >= since:
            own.pop()
        if own and own[-1].stop > since:
            own[-1] = replace(own[-1], stop=since)
        own.extend(edits)

    def requested_from(self, position: int) -> Iterator[Edit]:
        """The request's own edits that reach behind a position."""
        first = bisect_right(self.requested, position, key=attrgetter("stop"))
        return (self.requested[index] for index in range(first, len(self.requested)))

    def impose(self, edit: Edit) -> None:
        """Add a policy's edit; what overlaps with the same one becomes one stretch."""
        if edit.start >= edit.stop:
            return
        track = self._imposed.setdefault(_track(edit), [])
        first = bisect_left(track, edit.start, key=itemgetter(1))
        last = bisect_right(track, edit.stop, key=itemgetter(0))
        start, stop = edit.start, edit.stop
        if first < last:
            start, stop = min(start, track[first][0]), max(stop, track[last - 1][1])
        track[first:last] = [(start, stop)]

    def key(self, start: int, stop: int) -> bytes | None:
        """A digest of what is done to positions [start, stop); None when nothing is.

        Content only: program digest, coefficient and where in the block, so that the same edits on
        the same tokens give the same key whoever asks and under whatever name.
        """
        parts = sorted(
            (*track, max(low, start) - start, min(high, stop) - start)
            for track, low, high in self._touching(start, stop)
        )
        if not parts:
            return None
        return hashlib.sha256(repr(_joined(parts)).encode()).digest()

    def _touching(self, start: int, stop: int) -> Iterator[tuple[Track, int, int]]:
        """The edits that reach into [start, stop) and do something."""
        for edit in takewhile(lambda edit: edit.start < stop, self.requested_from(start)):
            if edit.coefficient != 0.0:
                yield _track(edit), edit.start, edit.stop
        for track, held in self._imposed.items():
            if track[2] in NOTHING:
                continue
            index = bisect_right(held, start, key=itemgetter(1))
            while index < len(held) and held[index][0] < stop:
                yield track, *held[index]
                index += 1

    @property
    def empty(self) -> bool:
        """Nothing is edited so far."""
        return not self.requested and not self._imposed


def _track(edit: Edit) -> Track:
    return edit.stage, edit.digest, edit.coefficient.hex()


def _joined(parts: list[Part]) -> list[Part]:
    """Runs of the same edit that touch become one: where a prompt ended does not matter."""
    joined = parts[:1]
    for part in parts[1:]:
        last = joined[-1]
        if last[:3] == part[:3] and part[3] <= last[4]:
            joined[-1] = (*last[:4], max(last[4], part[4]))
        else:
            joined.append(part)
    return joined
