"""Which edits each position of a request gets, and the prefix cache's key that follows from them.

KV computed under an edit never serves a request without that edit. vLLM's own hash of a block
stays as it is (and with it the client's salt); from the first edited block on, the running digest
of the edits so far is mixed in. Blocks before it are shared. Replay after preemption reads the
same timeline of edits.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from operator import attrgetter

from pilothouse.engine.scheduler.messages import PolicySpan, PolicySpans
from pilothouse.engine.vllm.protocols import Request


@dataclass(frozen=True, slots=True)
class Edit:
    """Positions [start, stop) edited by a program (content digest) at a coefficient."""

    start: int
    stop: int
    digest: str
    coefficient: float
    stage: str


FOREVER = 1 << 60

Part = tuple[str, str, str, int, int]
"""Stage, program digest, coefficient, first and one past the last place inside a block."""


class Timeline:
    """Edits of one request: its own, which do not overlap, and the policies' by program digest.

    A key costs the edits that touch its block, whatever came before.
    """

    def __init__(self) -> None:
        self.requested: list[Edit] = []
        self.imposed: dict[str, PolicySpans] = {}

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

    def impose(self, digest: str, span: PolicySpan) -> None:
        """A policy steers with a program; where several do with the same, the strongest counts."""
        self.imposed.setdefault(digest, PolicySpans()).impose(span)

    def policy_spans(self) -> Iterator[PolicySpan]:
        """What the policies do, at each position of each program one span at most."""
        return chain.from_iterable(self.imposed.values())

    def key(self, start: int, stop: int) -> bytes | None:
        """A digest of what is done to positions [start, stop); None when nothing is.

        Content only: program digest, coefficient and where in the block, so that the same edits on
        the same tokens give the same key whoever asks and under whatever name.
        """
        parts = sorted(
            (
                edit.stage,
                edit.digest,
                edit.coefficient.hex(),
                max(edit.start, start) - start,
                min(edit.stop, stop) - start,
            )
            for edit in self._touching(start, stop)
            if edit.coefficient != 0.0
        )
        if not parts:
            return None
        return hashlib.sha256(repr(_joined(parts)).encode()).digest()

    def _touching(self, start: int, stop: int) -> Iterator[Edit]:
        """The edits that reach into [start, stop), not cut."""
        yield from takewhile(lambda edit: edit.start < stop, self.requested_from(start))
        for digest, spans in self.imposed.items():
            for span in spans.within(start, stop):
                yield Edit(span.start, span.stop, digest, span.coefficient, "policy")

    @property
    def empty(self) -> bool:
        """Nothing is edited so far."""
        return not self.requested and not self.imposed


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


BlockHasher = Callable[[Request], list[bytes]]


class EditedBlockHasher:
    """Wraps a request's block hasher. Keeps vLLM's raw chain, returns the mixed one.

    The result depends only on tokens and edits, not on how many blocks each call covers.
    """

    def __init__(self, inner: BlockHasher, timeline: Timeline, block_size: int) -> None:
        self._inner = inner
        self._timeline = timeline
        self._block_size = block_size
        self._raw: list[bytes] = []
        self._running: bytes | None = None

    def __call__(self, request: Request) -> list[bytes]:
        """Hashes of the blocks that became full since the last call."""
        shown = request.block_hashes
        request.block_hashes = self._raw
        try:
            fresh = self._inner(request)
        finally:
            request.block_hashes = shown
        mixed = [self._mix(len(self._raw) + i, raw) for i, raw in enumerate(fresh)]
        self._raw.extend(fresh)
        return mixed

    def _mix(self, block_index: int, raw: bytes) -> bytes:
        start = block_index * self._block_size
        key = self._timeline.key(start, start + self._block_size)
        if key is not None:
            self._running = hashlib.sha256((self._running or b"") + raw + key).digest()
        if self._running is None:
            return raw
        return hashlib.sha256(self._running + raw).digest()
