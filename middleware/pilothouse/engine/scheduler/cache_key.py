"""Prefix-cache identity: KV computed under an edit never serves a request without that edit.

vLLM's own hash of a block stays as it is (and with it the client's salt); from the first edited
block on, the running digest of the edits so far is mixed in. Blocks before it are shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from pilothouse.engine.scheduler.timeline import Timeline
from pilothouse.engine.vllm.protocols import Request

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
