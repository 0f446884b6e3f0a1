"""The operators: from one line of steering to numbers at one layer. Sources stand beside each.

With h the stream at the tap, u a unit direction, p = <u, h>, s the term's scale, t its value:

add       h + s v                          vector; v raw, of length 1, of the mean norm, of |h|
add_below h + s v where p < t              vector; thresholded addition (AxBench, Wu et al. 2025)
ablate    h - s (p u)                      vector, subspace; s = 1 by default (Arditi et al. 2024)
reflect   h - 2 p u                        vector, subspace
set       h + (t - p) u                    vector
floor     h + max(0, t - p) u              vector
cap       h + min(0, t - p) u              vector; activation capping (Lu et al. 2026)
affine    h + ((s - 1) p + t) u            vector; affine concept editing (Marshall et al. 2024)
rotate    turned to t degrees in a plane   plane; angular steering (Vu and Nguyen 2025)
rotate_adaptive  the same where <u_1, h> > 0   plane; adaptive angular steering (ibid.)
slerp     |h| slerp(h / |h|, u, s)         vector; interpolation on the sphere (Shoemake 1985)
apply     h + s W (A h + b)                lowrank; LoReFT, DiReFT (Wu et al. 2024)
          h + s m (w h + b)                diagonal; AcT (Rodriguez et al. 2024), AUSteer, neurons
replace   h + s (v - h)                    vector; activation patching

Shapes: D width of the tap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pilothouse.edit.gate import STEEP, Gate
from pilothouse.edit.operator import (
    OPERATORS,
    Floats,
    OperatorSpec,
    Parts,
    Row,
    features_of,
    form_of,
    operator_of,
    register,
    strength_of,
)
from pilothouse.model.catalogue import Source
from pilothouse.model.transform import Transform
from pilothouse.model.vector import Vector

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm
    from pilothouse.types import Unit

__all__ = [
    "OPERATORS", "Floats", "OperatorSpec", "Parts", "Row", "features_of", "form_of", "operator_of",
    "register", "strength_of",
]  # fmt: skip


def measure(unit: Unit, source: Source, layer: int) -> float:
    """What a `value` is counted in: 1, or the mean norm at the tap for the unit `residual`."""
    return source.residual_norm(layer) if unit == "residual" else 1.0


def direction_D(source: Source, layer: int) -> Floats:
    """The unit direction of a vector at a layer."""
    assert isinstance(source, Vector)
    raw_D = source.direction_D(layer).astype(np.float64)
    unit_D: Floats = raw_D / np.linalg.norm(raw_D)
    return unit_D


def _add(term: SteerTerm, source: Source, layer: int) -> Parts:
    assert isinstance(source, Vector)
    if term.unit == "raw":
        return Parts(addition_D=source.direction_D(layer).astype(np.float64))
    if term.unit == "token":
        return Parts(relative_D=direction_D(source, layer))
    return Parts(addition_D=direction_D(source, layer) * measure(term.unit, source, layer))


def _add_below(term: SteerTerm, source: Source, layer: int) -> Parts:
    write_D = _add(term, source, layer).addition_D
    assert write_D is not None
    limit = (term.value or 0.0) * measure(term.unit, source, layer)
    step = Gate(bias=limit, threshold=0.0, slope=STEEP, low=0.0, high=1.0)
    return Parts(gated=[Row(-direction_D(source, layer), write_D, step)])


def _replace(term: SteerTerm, source: Source, layer: int) -> Parts:
    target_D = _add(term, source, layer).addition_D
    assert target_D is not None
    diagonal_4D = np.zeros((4, len(target_D)))
    diagonal_4D[0], diagonal_4D[1] = -1.0, target_D
    diagonal_4D[2], diagonal_4D[3] = -np.inf, np.inf
    return Parts(diagonal_4D=diagonal_4D)


def _project(gate: Callable[[SteerTerm, float], Gate]) -> Callable[..., Parts]:
    def compiled(term: SteerTerm, source: Source, layer: int) -> Parts:
        value = (term.value or 0.0) * measure(term.unit, source, layer)
        if isinstance(source, Transform):
            units = list(source.at(layer)["basis"].astype(np.float64))
        else:
            units = [direction_D(source, layer)]
        chosen = gate(term, value)
        return Parts(projections=[Row(unit_D, unit_D, chosen) for unit_D in units])

    return compiled


def _rotate(over: float) -> Callable[..., Parts]:
    def compiled(term: SteerTerm, source: Source, layer: int) -> Parts:
        assert isinstance(source, Transform)
        basis_2D = source.at(layer)["basis"].astype(np.float64)
        angle = math.radians(term.value or 0.0)
        turns = (math.cos(angle), math.sin(angle))
        return Parts(
            planes=[
                Row(unit_D, unit_D, Gate(threshold=over, in_plane=1.0, turn=turn))
                for unit_D, turn in zip(basis_2D, turns, strict=True)
            ]
        )

    return compiled


def _slerp(_: SteerTerm, source: Source, layer: int) -> Parts:
    return Parts(slerp_D=direction_D(source, layer))


def _apply(_: SteerTerm, source: Source, layer: int) -> Parts:
    assert isinstance(source, Transform)
    arrays = {name: each.astype(np.float64) for name, each in source.at(layer).items()}
    if source.form == "diagonal":
        names = ("weight", "bias", "low", "high")
        return Parts(diagonal_4D=np.stack([arrays[name] for name in names]))
    rows = zip(arrays["read"], arrays["write"], arrays["bias"].tolist(), strict=True)
    return Parts(codes=[Row(read, write, Gate(bias=bias, slope=1.0)) for read, write, bias in rows])


def _shift_growth(term: SteerTerm, source: Source, layer: int) -> float:
    assert term.scale is not None
    if term.unit == "token":
        return abs(term.scale)
    shift_D = _add(term, source, layer).addition_D
    assert shift_D is not None
    return abs(term.scale) * float(np.linalg.norm(shift_D)) / source.residual_norm(layer)


def _value_growth(term: SteerTerm, source: Source, layer: int) -> float:
    value = (term.value or 0.0) * measure(term.unit, source, layer)
    return abs(value) / source.residual_norm(layer)


def _remainder_growth(term: SteerTerm, *_: object) -> float:
    return max(0.0, abs(1.0 - (1.0 if term.scale is None else term.scale)) - 1.0)


def _affine_growth(term: SteerTerm, source: Source, layer: int) -> float:
    stretched = max(0.0, abs(1.0 if term.scale is None else term.scale) - 1.0)
    return stretched + _value_growth(term, source, layer)


def _share_growth(term: SteerTerm, *_: object) -> float:
    return max(0.0, abs(1.0 if term.scale is None else term.scale) - 1.0)


def _no_growth(*_: object) -> float:
    return 0.0


register("add", OperatorSpec(("vector",), _add, _shift_growth, needs_scale=True, takes_unit=True))
register(
    "add_below",
    OperatorSpec(
        ("vector",), _add_below, _shift_growth, needs_scale=True, takes_value=True, takes_unit=True
    ),
)
register("replace", OperatorSpec(("vector",), _replace, _share_growth, takes_unit=True))
register("slerp", OperatorSpec(("vector",), _slerp, _no_growth, needs_scale=True, share=True))
register(
    "ablate",
    OperatorSpec(("vector", "subspace"), _project(lambda *_: Gate(slope=-1.0)), _remainder_growth),
)
register(
    "reflect",
    OperatorSpec(
        ("vector", "subspace"), _project(lambda *_: Gate(slope=-2.0)), _no_growth,
        takes_scale=False,
    ),
)  # fmt: skip
register(
    "set",
    OperatorSpec(
        ("vector",), _project(lambda _, value: Gate(slope=-1.0, intercept=value)), _value_growth,
        takes_scale=False, takes_value=True, takes_unit=True,
    ),
)  # fmt: skip
register(
    "floor",
    OperatorSpec(
        ("vector",), _project(lambda _, value: Gate(slope=-1.0, intercept=value, low=0.0)),
        _value_growth, takes_scale=False, takes_value=True, takes_unit=True,
    ),
)  # fmt: skip
register(
    "cap",
    OperatorSpec(
        ("vector",), _project(lambda _, value: Gate(slope=-1.0, intercept=value, high=0.0)),
        _value_growth, takes_scale=False, takes_value=True, takes_unit=True,
    ),
)  # fmt: skip
register(
    "affine",
    OperatorSpec(
        ("vector",),
        _project(lambda term, value: Gate(slope=(term.scale or 0.0) - 1.0, intercept=value)),
        _affine_growth, needs_scale=True, takes_value=True, takes_unit=True, strength=False,
    ),
)  # fmt: skip
register(
    "rotate",
    OperatorSpec(("plane",), _rotate(-math.inf), _no_growth, takes_scale=False, takes_value=True),
)
register(
    "rotate_adaptive",
    OperatorSpec(("plane",), _rotate(0.0), _no_growth, takes_scale=False, takes_value=True),
)
register("apply", OperatorSpec(("lowrank", "diagonal"), _apply, _share_growth))
