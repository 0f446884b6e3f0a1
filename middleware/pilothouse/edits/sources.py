"""What terms can name: vectors, transforms and SAEs, and linear probes' rows for token gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
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
    saes: Mapping[str, Sae] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, term: SteerTerm) -> Source | Sae:
        """Return the vector, transform or SAE that a term steers with.

        Raises:
            RequestError: there is none.
        """
        kind, loaded = ("vector", self.edits) if term.sae is None else ("sae", self.saes)
        found: Source | Sae | None = loaded.get(term.name)
        if found is None:
            raise RequestError(
                f"steer: {kind}: got {term.name!r}, want one of {sorted(loaded)}", param="steer"
            )
        return found

    def read(self, probe: str, tap: Tap) -> ReadRow:
        """Return the row with which a probe of one tap reads there.

        Raises:
            RequestError: no such probe, or it reads elsewhere.
        """
        rows = self.reads.get(probe)
        if rows is None:
            raise RequestError(
                f"steer: gate: got probe {probe!r}, want one of {sorted(self.reads)}, which are "
                "the linear ones",
                param="steer",
            )
        if list(rows) != [tap]:
            places = ", ".join(f"{each.site} of layer {each.layer}" for each in rows)
            raise RequestError(
                f"steer: gate: probe {probe!r} reads at {places}, want one that reads at "
                f"{tap.site} of layer {tap.layer}, where it would gate, and nowhere else",
                param="steer",
            )
        return rows[tap]
