"""Gated rows before they are put together, in float64.

Shapes: D width of the tap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from pilothouse.edits.gate import Gate
from pilothouse.edits.statistic import Statistic
from pilothouse.edits.table import Floats, Given, Parts
from pilothouse.errors import RequestError

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


class Latent(NamedTuple):
    """A feature of a resident SAE, which is named by its digest."""

    sae: str
    feature: int
    is_linear: bool = True
    """What is written is the code times a direction, whatever the other codes are."""


WORST_CONDITION = 1e6


def staged(given: Sequence[Given[RowPart]], layer: int) -> tuple[list[RowStage], list[Row]]:
    """Return all rows at their weights, and the stage of each.

    Raises:
        RequestError: projections on directions that are all but parallel, or beside codes that they
            would not see.
    """
    stages: dict[RowStage, list[Row]] = {stage: [] for stage in RowStage}
    for weight, part in given:
        stages[part.stage].append(part.row.weighed(weight))
    for stage, found in stages.items():
        # By content, so that the order of terms cannot matter. Planes keep their pairs.
        stages[stage] = found if stage == RowStage.PLANE else sorted(found, key=_content)
    stages[RowStage.PROJECTION] = _dual_rows(stages[RowStage.PROJECTION], layer)
    _refuse_unseen(stages, layer)
    rows = [row for found in stages.values() for row in found]
    return [stage for stage, found in stages.items() for _ in found], rows


def _refuse_unseen(stages: dict[RowStage, list[Row]], layer: int) -> None:
    codes = [row.latent for row in stages[RowStage.CODE] if row.latent is not None]
    if stages[RowStage.PROJECTION] and not all(each.is_linear for each in codes):
        raise RequestError(
            f"steer: at layer {layer} a projection stands beside features of an SAE "
            "whose decoder is not linear, of which it would not see all: steer them at "
            "different layers",
            param="steer",
        )


def _dual_rows(rows: list[Row], layer: int) -> list[Row]:
    """Return writes that move one coordinate and leave the others: the dual basis."""
    if len(rows) < 2:
        return rows
    units_RD = np.array([row.read_D for row in rows])
    gram_RR = units_RD @ units_RD.T
    if np.linalg.cond(gram_RR) > WORST_CONDITION:
        raise RequestError(
            f"steer: projections at layer {layer} are on directions that are parallel or nearly "
            "so: leave one out, or steer at different layers",
            param="steer",
        )
    dual_RD = np.linalg.solve(gram_RR, units_RD)
    return [
        row._replace(write_D=float(row.read_D @ row.write_D) * dual_D)
        for row, dual_D in zip(rows, dual_RD, strict=True)
    ]


def seen_RR(stages: list[RowStage], reads_RD: Floats, writes_RD: Floats) -> Floats:
    """Return what each row sees of each: a projection of what planes and codes wrote, no other."""
    stage_R = np.array(stages, np.int64)
    is_seen_R = stage_R < RowStage.PROJECTION
    later_RR = (stage_R[:, None] == RowStage.PROJECTION) & is_seen_R[None, :]
    sees_RR: Floats = np.where(later_RR, reads_RD @ writes_RD.T, 0.0)
    return sees_RR


def _content(row: Row) -> tuple[bytes, bytes, Gate, int, Latent]:
    latent = row.latent or Latent("", 0)
    return row.read_D.tobytes(), row.write_D.tobytes(), row.gate, int(row.statistic), latent
