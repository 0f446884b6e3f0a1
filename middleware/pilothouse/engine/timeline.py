"""Which edits each position of one request gets. Replay after preemption and cache keys read it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Edit:
    """Positions [start, stop) edited by a program (content digest) at a coefficient."""

    start: int
    stop: int
    digest: str
    coefficient: float
    stage: str


FOREVER = 1 << 60


@dataclass(slots=True)
class Timeline:
    """Edits of one request, in order of their start. Positions are absolute."""

    edits: list[Edit] = field(default_factory=list)

    def add(self, edit: Edit) -> None:
        """Append an edit, or lengthen the last one when only its end differs."""
        if self.edits:
            last = self.edits[-1]
            same = (last.digest, last.coefficient, last.stage, last.start)
            if same == (edit.digest, edit.coefficient, edit.stage, edit.start):
                self.edits[-1] = edit
                return
        self.edits.append(edit)

    def key(self, start: int, stop: int) -> bytes | None:
        """A digest of what is done to positions [start, stop); None when nothing is.

        Content only: program digest, coefficient and where in the block, so that the same edits on
        the same tokens give the same key whoever asks and under whatever name.
        """
        parts = sorted(
            (edit.stage, max(edit.start, start) - start, min(edit.stop, stop) - start,
             edit.digest, edit.coefficient.hex())
            for edit in self.edits
            if edit.start < stop and edit.stop > start and edit.coefficient != 0.0
        )  # fmt: skip
        if not parts:
            return None
        return hashlib.sha256(repr(parts).encode()).digest()
