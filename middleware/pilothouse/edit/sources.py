"""What terms can name: loaded vectors and transforms, and probes' read rows for token gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from pilothouse.errors import RequestError
from pilothouse.model.catalogue import Source
from pilothouse.types import FloatArray, Tap


class ReadRow(NamedTuple):
    """A probe's row at one tap, float32 [D], and its bias."""

    row_D: FloatArray
    bias: float


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Compared by identity: compiled programs are cached by it."""

    edits: Mapping[str, Source]
    reads: Mapping[str, Mapping[Tap, ReadRow]] = field(default_factory=lambda: MappingProxyType({}))
    num_layers: int = 0
    """Of the served model."""

    def edit(self, name: str) -> Source:
        """The vector or transform of that name.

        Raises:
            RequestError: there is none.
        """
        if name not in self.edits:
            raise RequestError(
                f"steer: vector: got {name!r}, want one of {sorted(self.edits)}", param="steer"
            )
        return self.edits[name]

    def read(self, probe: str, tap: Tap) -> ReadRow:
        """The row with which a probe of one tap reads there.

        Raises:
            RequestError: no such probe, or it reads elsewhere.
        """
        rows = self.reads.get(probe)
        if rows is None:
            raise RequestError(
                f"steer: gate: got probe {probe!r}, want one of {sorted(self.reads)}", param="steer"
            )
        if list(rows) != [tap]:
            places = ", ".join(f"{each.site} of layer {each.layer}" for each in rows)
            raise RequestError(
                f"steer: gate: probe {probe!r} reads at {places}, want one that reads at "
                f"{tap.site} of layer {tap.layer}, where it would gate, and nowhere else",
                param="steer",
            )
        return rows[tap]
