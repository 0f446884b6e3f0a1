"""A position that the prefix cache skips is scored with what was read when it was computed.

What a step reads is cut into blocks as vLLM hashes them, and kept on the host under their hashes. A
block's hash stands for its tokens, all before them, the edits and adapter they were computed under
and the client's salt; reads depend on nothing else, so rows under a hash are right for every
request that has it. A request that finds blocks in the cache has their rows folded before its
first own position, as if it had been fed them. Where a rule must see every position, a request may
take no block whose rows are not there, or on their way.

The order of events: `bound` and `found` when vLLM looks for blocks, `given` when it gives some out,
`planned` when a step is complete; then, one step or more later, `take` with what that step read,
before it is folded, and `settle` after vLLM appended the sampled tokens and hashed what they
filled. Others find a block as soon as it is given out, in the same step too; its rows are promised
until `take` has them.

Shape suffixes: C followed requests, B requests of the step, T tokens, E read columns, S positions
of a block.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.vllm.protocols import Request
from pilothouse.types import FloatArray, IntArray

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


NOWHERE = -1
CursorOf = Callable[[str], int | None]
"""A request's first position that is not folded yet; None for one whose reads nobody folds."""


@dataclass(slots=True)
class _ReadRequest:
    """A request whose reads are kept."""

    request: Request
    sees_all: bool
    """A rule must see every position: no hit without rows."""
    slot: int = NOWHERE
    """From when it is given blocks: who waits in the queue, which has no bound, takes no room."""
    hit: list[bytes] = field(default_factory=list)
    """Hashes of the blocks that it took from the cache and has not been folded yet."""
    pinned: dict[bytes, Rows] = field(default_factory=dict)
    """Rows of these, from when they are there, so that none goes meanwhile."""
    promised: list[tuple[int, bytes]] = field(default_factory=list)
    """(end position, hash) of blocks that it computes in steps whose reads have not come yet."""
    unplanned: int = 0
    """How many of these, the last ones, were given out for the step that is being planned."""
    is_gone: bool = False
    """It has ended, with a step under way that fills blocks that others may have taken."""


class CachedReads:
    """Keeps what was read in blocks of the prefix cache, and hands it to requests that skip them.

    Args:
        store: the rows.
        block_size: positions of a block, as vLLM hashes them.
        cursor_of: where folding stands.
    """

    def __init__(self, store: ReadStore, block_size: int, cursor_of: CursorOf) -> None:
        self._store = store
        self._size = block_size
        self._cursor_of = cursor_of
        self._entries: dict[str, _ReadRequest] = {}
        """By request id. A request stays here after it has ended, while steps under way fill
        blocks of it that others may have taken: so this is no part of its `RequestState`."""
        self._promises: Counter[bytes] = Counter()
        self._awaited: dict[bytes, list[_ReadRequest]] = {}
        """Who took a block whose rows are promised."""
        self._given: set[str] = set()
        self._unhashed: list[tuple[Request, int, Rows]] = []
        self._free: list[int] = []
        self._tail_CSE: FloatArray = np.zeros((0, block_size, 0), np.float32)
        """The newest positions of each, those of block b at their places in it."""
        self._since_C: IntArray = np.zeros(0, np.int64)
        self._until_C: IntArray = np.zeros(0, np.int64)
        """Positions [since, until) were read without a gap."""
        self.life = 0
        """Which life of the cache it is in; a reset begins another one."""

    def follow(self, request: Request, *, sees_all: bool) -> None:
        """From now on keep what is read of a request."""
        self.forget(request.request_id)
        self._entries[request.request_id] = _ReadRequest(request, sees_all)

    def forget(self, request_id: str) -> None:
        """A request has ended. What it was computing meanwhile is still taken in."""
        entry = self._entries.get(request_id)
        if entry is None:
            return
        entry.is_gone = True
        entry.hit, entry.pinned = [], {}
        self._drop_if_done(request_id, entry)

    def bound(self, request: Request) -> int | None:
        """How many of a request's leading blocks it may skip; None for all.

        What was folded before it was preempted is not folded again, and may be skipped.
        """
        entry = self._entries.get(request.request_id)
        cursor = self._cursor_of(request.request_id)
        if entry is None or not entry.sees_all or cursor is None:
            return None
        hashes = request.block_hashes
        for block in range(cursor // self._size, len(hashes)):
            if hashes[block] not in self._store and not self._promises[hashes[block]]:
                return block
        return len(hashes)

    def found(self, request: Request, num_tokens: int) -> None:
        """A request looked for blocks and skips so many tokens, if it is given room."""
        entry = self._entries.get(request.request_id)
        if entry is not None:
            blocks = -(-num_tokens // self._size)
            entry.hit, entry.pinned = list(request.block_hashes[:blocks]), {}

    def given(self, request: Request, start: int, stop: int) -> None:
        """A request computes positions [start, stop) in the step that is being planned."""
        entry = self._entries.get(request.request_id)
        if entry is None:
            return
        if entry.slot == NOWHERE:
            entry.slot = self._seat()
        if start >= request.num_prompt_tokens and not entry.hit:
            return
        # Of an answer nobody can know yet which tokens will be fed.
        last = min(stop, request.num_prompt_tokens) // self._size
        # A hit may end inside a block, whose beginning this request then never reads.
        first = -(-start // self._size) if entry.hit else start // self._size
        for block in range(first, min(last, len(request.block_hashes))):
            block_hash = request.block_hashes[block]
            entry.promised.append(((block + 1) * self._size, block_hash))
            entry.unplanned += 1
            self._promises[block_hash] += 1
        self._given.add(request.request_id)

    def planned(self, request_ids: Collection[str]) -> None:
        """The step is complete: what was given out to others will not be computed in it."""
        for request_id in self._given:
            entry = self._entries.get(request_id)
            if entry is None:
                continue
            if request_id not in request_ids:
                for _ in range(entry.unplanned):
                    self._withdraw(entry.promised.pop()[1])
            entry.unplanned = 0
            for block_hash in entry.hit:
                rows_SE = self._store.get(block_hash)
                if rows_SE is not None:
                    entry.pinned[block_hash] = rows_SE
                elif self._promises[block_hash]:
                    self._awaited.setdefault(block_hash, []).append(entry)
        self._given.clear()

    def take(self, emissions: Emissions, life: int) -> Emissions | None:
        """Keep what a step read, and return what is to be folded before it.

        Args:
            emissions: what the step read.
            life: of the cache when the step was planned; after a reset nothing of it is kept.

        Returns:
            Reads of positions that requests of the step skipped. Where a rule must see a position
            and its row is not there, the row is NaN, which no rule takes for a score.
        """
        if not self._entries:
            return None
        members = [self._entries.get(each) for each in emissions.request_ids]
        self._widen(emissions.scores_TE.shape[1])
        if life == self.life:
            self._keep(emissions, members)
        found: list[tuple[str, int, FloatArray]] = []
        for b, member in enumerate(members):
            if member is not None and (member.promised or member.hit):
                start, request_id = emissions.starts[b], emissions.request_ids[b]
                rows_TE, cursor = self._skipped(member, request_id, start)
                if len(rows_TE):
                    found.append((request_id, cursor, rows_TE))
                while member.promised and member.promised[0][0] <= start + emissions.counts[b]:
                    self._withdraw(member.promised.pop(0)[1])
                self._drop_if_done(request_id, member)
        if not found:
            return None
        names, starts, rows = zip(*found, strict=True)
        return Emissions(names, starts, tuple(map(len, rows)), np.concatenate(rows))

    def settle(self) -> None:
        """Keep rows of blocks whose last token was hashed only now."""
        waiting, self._unhashed = self._unhashed, []
        for request, block, rows_SE in waiting:
            if block < len(request.block_hashes):
                self._hand_out(request.block_hashes[block], rows_SE)

    def clear(self) -> None:
        """The prefix cache was reset; what steps under way read is of its last life."""
        self.life += 1
        self._store.clear()
        self._unhashed.clear()
        self._awaited.clear()
        self._since_C[:] = self._until_C[:] = NOWHERE

    def _keep(self, emissions: Emissions, members: list[_ReadRequest | None]) -> None:
        counts_B = np.array(emissions.counts, np.int64)
        firsts_B = np.cumsum(counts_B) - counts_B
        slots_B = np.array([NOWHERE if each is None else each.slot for each in members], np.int64)
        singles = np.flatnonzero((slots_B != NOWHERE) & (counts_B == 1))
        self._keep_singles(emissions, members, firsts_B, slots_B, singles)
        for b in np.flatnonzero((slots_B != NOWHERE) & (counts_B > 1)).tolist():
            member, first = members[b], int(firsts_B[b])
            if member is not None:
                rows_TE = emissions.scores_TE[first : first + emissions.counts[b]]
                self._keep_run(member, emissions.starts[b], rows_TE)

    def _keep_singles(
        self,
        emissions: Emissions,
        members: list[_ReadRequest | None],
        firsts_B: IntArray,
        slots_B: IntArray,
        chosen: IntArray,
    ) -> None:
        """One position of each, all at once; Python runs for those alone that fill a block."""
        slots, starts = slots_B[chosen], np.array(emissions.starts, np.int64)[chosen]
        broken = self._until_C[slots] != starts
        self._since_C[slots[broken]] = starts[broken]
        self._until_C[slots] = starts + 1
        self._tail_CSE[slots, starts % self._size] = emissions.scores_TE[firsts_B[chosen]]
        is_full = (starts + 1) % self._size == 0
        is_full &= self._since_C[slots] <= starts + 1 - self._size
        for i in np.flatnonzero(is_full).tolist():
            member = members[int(chosen[i])]
            if member is not None:
                rows_SE = self._tail_CSE[slots[i]].copy()
                self._put(member.request, int(starts[i]) // self._size, rows_SE)

    def _keep_run(self, member: _ReadRequest, start: int, scores_TE: FloatArray) -> None:
        size, slot, stop = self._size, member.slot, start + len(scores_TE)
        if self._until_C[slot] != start:
            self._since_C[slot] = start
        tail_SE = self._tail_CSE[slot]
        for block in range(start // size, stop // size):
            begin = block * size
            if begin >= start:
                self._put(member.request, block, scores_TE[begin - start :][:size].copy())
            elif self._since_C[slot] <= begin:
                rest = scores_TE[: begin + size - start]
                self._put(member.request, block, np.concatenate([tail_SE[: start - begin], rest]))
        begin = max(start, stop // size * size)
        tail_SE[begin % size : begin % size + stop - begin] = scores_TE[begin - start :]
        self._until_C[slot] = stop

    def _put(self, request: Request, block: int, rows_SE: Rows) -> None:
        if block < len(request.block_hashes):
            self._hand_out(request.block_hashes[block], rows_SE)
        else:
            self._unhashed.append((request, block, rows_SE))

    def _hand_out(self, block_hash: bytes, rows_SE: Rows) -> None:
        self._store.put(block_hash, rows_SE)
        for entry in self._awaited.pop(block_hash, ()):
            entry.pinned[block_hash] = rows_SE

    def _skipped(self, member: _ReadRequest, request_id: str, start: int) -> tuple[FloatArray, int]:
        """(Rows of positions that it skipped before `start`, the first of them)."""
        width = self._tail_CSE.shape[2]
        rows: list[FloatArray] = [np.zeros((0, width), np.float32)]
        cursor = self._cursor_of(request_id)
        if cursor is None or start <= cursor:
            # Of a step that was under way when it was preempted, the hit is yet to come.
            if start >= len(member.hit) * self._size:
                member.hit, member.pinned = [], {}
            return rows[0], start
        for block in range(cursor // self._size, -(-start // self._size)):
            is_hit = block < len(member.hit)
            rows_SE = member.pinned.get(member.hit[block]) if is_hit else None
            if rows_SE is None and not member.sees_all:
                break
            if rows_SE is None:
                rows_SE = np.full((self._size, width), np.nan, np.float32)
            begin = block * self._size
            rows.append(rows_SE[max(cursor - begin, 0) : start - begin])
        member.hit, member.pinned = [], {}
        return np.concatenate(rows), cursor

    def _withdraw(self, block_hash: bytes) -> None:
        self._promises[block_hash] -= 1
        if self._promises[block_hash] <= 0:
            del self._promises[block_hash]
            self._awaited.pop(block_hash, None)

    def _drop_if_done(self, request_id: str, entry: _ReadRequest) -> None:
        if entry.is_gone and not entry.promised:
            if entry.slot != NOWHERE:
                self._free.append(entry.slot)
            del self._entries[request_id]

    def _seat(self) -> int:
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._since_C[slot] = self._until_C[slot] = NOWHERE
        return slot

    def _widen(self, columns: int) -> None:
        slots, size, known = self._tail_CSE.shape
        if known != columns:
            self._tail_CSE = np.zeros((slots, size, columns), np.float32)

    def _grow(self) -> None:
        old, size, columns = self._tail_CSE.shape
        more = max(64, old)
        tail_CSE = np.zeros((old + more, size, columns), np.float32)
        tail_CSE[:old] = self._tail_CSE
        self._tail_CSE = tail_CSE
        nowhere = np.full(more, NOWHERE, np.int64)
        self._since_C = np.concatenate([self._since_C, nowhere])
        self._until_C = np.concatenate([self._until_C, nowhere])
        self._free += range(old + more - 1, old - 1, -1)
