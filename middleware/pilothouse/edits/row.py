"""Gated rows before they are put together, in float64.

Shapes: D width of the tap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from pilothouse.edits.gate import Gate
from pilothouse.edits.latent import Latent
from pilothouse.edits.statistic import Statistic
from pilothouse.edits.table import Floats, Parts

ROWS = "rows"


class RowStage(IntEnum):
    """Where a row stands in the order. Planes come first: their rows lie in pairs."""

    PLANE = 0
    CODE = 1
    PROJECTION = 2
    GATED = 3


class Row(NamedTuple):
    """A gated row. Projections are given by their unit direction alone, as `read_D`.

    One with a `latent` reads that code instead, and `read_D` is zeros.
    """

    read_D: Floats
    write_D: Floats
    gate: Gate
    statistic: Statistic = Statistic.NONE
    latent: Latent | None = None

    def weighed(self, weight: float) -> Row:
        """Return a row that writes that much of it; of a code, which others see, the change."""
        if self.latent is None:
            return self._replace(write_D=weight * self.write_D)
        gate = self.gate
        low, high = sorted((weight * gate.low, weight * gate.high))
        return self._replace(
            gate=gate._replace(
                slope=weight * gate.slope, intercept=weight * gate.intercept, low=low, high=high
            )
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowPart:
    """What a term gives to the table of rows: one of them."""

    stage: RowStage
    row: Row
    kind: str = ROWS


def row_parts(stage: RowStage, rows: Iterable[Row]) -> Parts:
    """Return the parts of some rows of one stage."""
    return tuple(RowPart(stage, row) for row in rows)
