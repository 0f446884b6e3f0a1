"""The operator `add_below`: h + s v where <u, h> < t, u the direction of v at length 1.

Thresholded addition (AxBench, Wu et al. 2025): a row whose gate is a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilothouse.artifacts.catalog import Source
from pilothouse.edits.gate import STEEP, Gate
from pilothouse.edits.operator import OperatorSpec, direction_D, measure, register
from pilothouse.edits.ops.additions import shift_D, shift_growth
from pilothouse.edits.row import ROWS, Row, RowStage, row_parts
from pilothouse.edits.table import Parts

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm


def _add_below(term: SteerTerm, source: Source, layer: int) -> Parts:
    limit = (term.value or 0.0) * measure(term.unit, source, layer)
    step = Gate(bias=limit, threshold=0.0, slope=STEEP, low=0.0, high=1.0)
    row = Row(-direction_D(source, layer), shift_D(term, source, layer), step)
    return row_parts(RowStage.GATED, [row])


register(
    "add_below",
    OperatorSpec(
        {"vector": frozenset({ROWS})},
        _add_below,
        shift_growth,
        needs_scale=True,
        takes_value=True,
        takes_unit=True,
    ),
)
