"""Slots of the edit tables: which program lies where, who uses it, who waits for a free one.

Slot 0 is empty and exact. A slot stays until its last request has ended, then it is kept as long
as nobody else needs it, so that a program that comes back costs no upload.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from pilothouse.edits.program import Program
from pilothouse.engine.scheduler.messages import Upload

EMPTY_SLOT = 0


class ProgramSlots:
    """Owner of slots 1 .. capacity."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = list(range(capacity, 0, -1))
        self._slot_of: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._uploads: list[Upload] = []

    @property
    def active(self) -> int:
        """Programs that a live request uses."""
        return len(self._users)

    def resident(self, programs: Sequence[Program]) -> bool:
        """Whether all of them lie in slots already."""
        return all(each.digest in self._slot_of for each in programs)

    def acquire(self, programs: Sequence[Program]) -> dict[str, int] | None:
        """Slots for all of them, or None (and nothing taken) when they do not fit now."""
        fresh = {each.digest: each for each in programs if each.digest not in self._slot_of}
        wanted = {each.digest for each in programs}
        evictable = [digest for digest in self._idle if digest not in wanted]
        if len(fresh) > len(self._free) + len(evictable):
            return None
        for program in fresh.values():
            self._load(program, evictable)
        for digest in wanted:
            self._users[digest] = self._users.get(digest, 0) + 1
            self._idle.pop(digest, None)
        return {digest: self._slot_of[digest] for digest in wanted}

    def release(self, digests: set[str]) -> None:
        """One request that used these has ended."""
        for digest in digests:
            self._users[digest] -= 1
            if self._users[digest] == 0:
                del self._users[digest]
                self._idle[digest] = None

    def drain_uploads(self) -> list[Upload]:
        """What workers must write before the next forward; empties the list."""
        uploads, self._uploads = self._uploads, []
        return uploads

    def _load(self, program: Program, evictable: list[str]) -> None:
        if not self._free:
            victim = evictable.pop(0)
            del self._idle[victim]
            self._free.append(self._slot_of.pop(victim))
        slot = self._free.pop()
        self._slot_of[program.digest] = slot
        self._uploads.append(Upload(slot, dict(program.layers)))
