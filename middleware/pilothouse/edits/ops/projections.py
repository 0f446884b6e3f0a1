"""Operators on the projection p = <u, h> of a token on a unit direction u.

With s the term's scale and t its value:

ablate    h - s (p u)                      vector, subspace; s = 1 by default (Arditi et al. 2024)
reflect   h - 2 p u                        vector, subspace
set       h + (t - p) u                    vector
floor     h + max(0, t - p) u              vector
cap       h + min(0, t - p) u              vector; activation capping (Lu et al. 2026)
affine    h + ((s - 1) p + t) u            vector; affine concept editing (Marshall et al. 2024)

Each is a row that reads and writes along u. A subspace is one row for each of its directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.transform import Transform
from pilothouse.edits.gate import Gate
from pilothouse.edits.operator import (
    OperatorSpec,
    direction_D,
    measure,
    no_growth,
    register,
    share_growth,
    value_growth,
)
from pilothouse.edits.row import ROWS, Row, RowStage, row_parts
from pilothouse.edits.table import Parts

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm

VECTOR = {"vector": frozenset({ROWS})}
VECTOR_OR_SUBSPACE = VECTOR | {"subspace": frozenset({ROWS})}
TO_A_VALUE: Mapping[str, Mapping[str, float]] = {
    "set": {},
    "floor": {"low": 0.0},
    "cap": {"high": 0.0},
}
"""What moves p to the value -> how the step t - p is bounded."""


def _project(gate: Callable[[SteerTerm, float], Gate]) -> Callable[..., Parts]:
    def compiled(term: SteerTerm, source: Source, layer: int) -> Parts:
        value = (term.value or 0.0) * measure(term.unit, source, layer)
        if isinstance(source, Transform):
            units = list(source.at(layer)["basis"].astype(np.float64))
        else:
            units = [direction_D(source, layer)]
        chosen = gate(term, value)
        return row_parts(RowStage.PROJECTION, [Row(unit_D, unit_D, chosen) for unit_D in units])

    return compiled


def _to_a_value(bounds: Mapping[str, float]) -> Callable[[SteerTerm, float], Gate]:
    return lambda _, value: Gate(slope=-1.0, intercept=value, **bounds)


def _remainder_growth(term: SteerTerm, *_: object) -> float:
    return max(0.0, abs(1.0 - (1.0 if term.scale is None else term.scale)) - 1.0)


def _affine_growth(term: SteerTerm, source: Source, layer: int) -> float:
    return share_growth(term) + value_growth(term, source, layer)


register(
    "ablate",
    OperatorSpec(
        VECTOR_OR_SUBSPACE,
        _project(lambda *_: Gate(slope=-1.0)),
        _remainder_growth,
        default_of=("subspace",),
        at_writers=True,
    ),
)
register(
    "reflect",
    OperatorSpec(
        VECTOR_OR_SUBSPACE,
        _project(lambda *_: Gate(slope=-2.0)),
        no_growth,
        takes_scale=False,
    ),
)
for _name, _bounds in TO_A_VALUE.items():
    register(
        _name,
        OperatorSpec(
            VECTOR,
            _project(_to_a_value(_bounds)),
            value_growth,
            takes_scale=False,
            takes_value=True,
            takes_unit=True,
        ),
    )
register(
    "affine",
    OperatorSpec(
        VECTOR,
        _project(lambda term, value: Gate(slope=(term.scale or 0.0) - 1.0, intercept=value)),
        _affine_growth,
        needs_scale=True,
        takes_value=True,
        needs_value=False,
        takes_unit=True,
        strength=False,
    ),
)
