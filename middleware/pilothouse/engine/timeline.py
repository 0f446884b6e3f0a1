"""Which edits each position of one request gets. Replay after preemption and cache keys read it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace


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


@dataclass(slots=True)
class Timeline:
    """Edits of one request, in order of their start. Positions are absolute."""

    edits: list[Edit] = field(default_factory=list)

    def add(self, edit: Edit) -> None:
        """Append an edit, or lengthen the one that differs in its end only."""
        for i, known in enumerate(self.edits):
            if replace(known, stop=edit.stop) == edit:
                self.edits[i] = edit
                return
        self.edits.append(edit)

    def key(self, start: int, stop: int) -> bytes | None:
        """A digest of what is done to positions [start, stop); None when nothing is.

        Content only: program digest, coefficient and where in the block, so that the same edits on
        the same tokens give the same key whoever asks and under whatever name.
        """
        parts = sorted(
            (edit.stage, edit.digest, edit.coefficient.hex(),
             max(edit.start, start) - start, min(edit.stop, stop) - start)
            for edit in self.edits
            if edit.start < stop and edit.stop > start and edit.coefficient != 0.0
        )  # fmt: skip
        if not parts:
            return None
        return hashlib.sha256(repr(_joined(parts)).encode()).digest()


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
