"""The operator `apply`: a learned map as it is, times the term's scale s.

h + s W (A h + b)      low-rank; LoReFT, DiReFT (Wu et al. 2024)
h + s m (w h + b)      of single dimensions; AcT (Rodriguez et al. 2024), AUSteer, neurons
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.transform import Transform
from pilothouse.edits.gate import Gate
from pilothouse.edits.operator import OperatorSpec, register, share_growth
from pilothouse.edits.ops.diagonal import DIAGONAL
from pilothouse.edits.row import ROWS, Row, RowStage, row_parts
from pilothouse.edits.table import Numbers, Parts

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm


def _apply(_: SteerTerm, source: Source, layer: int) -> Parts:
    assert isinstance(source, Transform)
    arrays = {name: each.astype(np.float64) for name, each in source.at(layer).items()}
    if source.form == "diagonal":
        names = ("weight", "bias", "low", "high")
        return (Numbers(DIAGONAL, np.stack([arrays[name] for name in names])),)
    rows = zip(arrays["read"], arrays["write"], arrays["bias"].tolist(), strict=True)
    return row_parts(
        RowStage.CODE, [Row(read, write, Gate(bias=bias, slope=1.0)) for read, write, bias in rows]
    )


register(
    "apply",
    OperatorSpec(
        {"lowrank": frozenset({ROWS}), "diagonal": frozenset({"diagonal"})},
        _apply,
        share_growth,
        default_of=("lowrank", "diagonal"),
    ),
)
