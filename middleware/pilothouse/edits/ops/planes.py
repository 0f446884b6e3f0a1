"""Turns in a plane that a transform spans: angular steering (Vu and Nguyen 2025).

rotate           what of h lies in the plane is turned to t degrees, t the term's value
rotate_adaptive  the same where <u_1, h> > 0, u_1 the first direction of the plane

Two rows, which lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.transform import Transform
from pilothouse.edits.gate import Gate
from pilothouse.edits.operator import OperatorSpec, no_growth, register
from pilothouse.edits.row import ROWS, Row, RowStage, row_parts
from pilothouse.edits.table import Parts

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm

PLANE = {"plane": frozenset({ROWS, "planes"})}


def _rotate(over: float) -> Callable[..., Parts]:
    def compiled(term: SteerTerm, source: Source, layer: int) -> Parts:
        assert isinstance(source, Transform)
        basis_2D = source.at(layer)["basis"].astype(np.float64)
        angle = math.radians(term.value or 0.0)
        turns = (math.cos(angle), math.sin(angle))
        rows = [
            Row(unit_D, unit_D, Gate(threshold=over, in_plane=1.0, turn=turn))
            for unit_D, turn in zip(basis_2D, turns, strict=True)
        ]
        return row_parts(RowStage.PLANE, rows)

    return compiled


register(
    "rotate",
    OperatorSpec(
        PLANE,
        _rotate(-math.inf),
        no_growth,
        default_of=("plane",),
        takes_scale=False,
        takes_value=True,
    ),
)
register(
    "rotate_adaptive",
    OperatorSpec(PLANE, _rotate(0.0), no_growth, takes_scale=False, takes_value=True),
)
