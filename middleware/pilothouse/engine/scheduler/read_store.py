"""What was read in blocks of the prefix cache, kept on the host by the block's hash.

A block's hash stands for its tokens, all before them, the edits and adapter they were computed
under and the client's salt; reads depend on nothing else, so rows under a hash are right for every
request that has it.

Shape suffixes: S positions of a block, E read columns.
"""

from __future__ import annotations

from collections import OrderedDict

from pilothouse.types import FloatArray

Rows = FloatArray
"""Of one block [S, E]."""


class ReadStore:
    """Rows by block hash; what was used least recently goes when the budget is full."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._rows: OrderedDict[bytes, Rows] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """Memory of all rows."""
        return self._bytes

    def put(self, block_hash: bytes, rows_SE: Rows) -> None:
        """Keep the rows of a block; the caller does not write to them again."""
        known = self._rows.pop(block_hash, None)
        if known is not None:
            self._bytes -= known.nbytes
        self._rows[block_hash] = rows_SE
        self._bytes += rows_SE.nbytes
        while self._bytes > self._budget_bytes:
            _, oldest = self._rows.popitem(last=False)
            self._bytes -= oldest.nbytes

    def get(self, block_hash: bytes) -> Rows | None:
        """The rows of a block, which count as used now."""
        rows_SE = self._rows.get(block_hash)
        if rows_SE is not None:
            self._rows.move_to_end(block_hash)
        return rows_SE

    def __contains__(self, block_hash: bytes) -> bool:
        return block_hash in self._rows

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._bytes = 0
