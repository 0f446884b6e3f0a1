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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.edit.gate import STEEP, Gate
from pilothouse.errors import ConfigError, RequestError
from pilothouse.model.catalogue import Source
from pilothouse.model.transform import Transform
from pilothouse.model.vector import Vector

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm
    from pilothouse.types import Operator, Reserved, Unit

Floats = NDArray[np.float64]


class Row(NamedTuple):
    """A gated row in float64. Projections are given by their unit direction alone, as `read_D`."""

    read_D: Floats
    write_D: Floats
    gate: Gate


@dataclass(slots=True)
class Parts:
    """What one term does at one layer, before terms are put together."""

    addition_D: Floats | None = None
    relative_D: Floats | None = None
    slerp_D: Floats | None = None
    planes: list[Row] = field(default_factory=list)
    codes: list[Row] = field(default_factory=list)
    projections: list[Row] = field(default_factory=list)
    gated: list[Row] = field(default_factory=list)
    diagonal_4D: Floats | None = None


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """One operator: what it takes and what it becomes.

    `growth` bounds how much longer h can get, as a share of the mean norm at the tap; artefacts
    that are maps of their own are taken at their word up to a scale of 1.
    """

    forms: tuple[str, ...]
    compile: Callable[[SteerTerm, Source, int], Parts]
    growth: Callable[[SteerTerm, Source, int], float]
    needs_scale: bool = False
    takes_scale: bool = True
    takes_value: bool = False
    takes_unit: bool = False
    strength: bool = True
    """The scale multiplies all that is written, so it can be a coefficient of the request."""
    share: bool = False
    """The scale is a share of a way: over 0, at most 1."""


OPERATORS: dict[Operator, OperatorSpec] = {}
DEFAULTS: Mapping[str, Operator] = {
    "vector": "add", "subspace": "ablate", "plane": "rotate", "lowrank": "apply",
    "diagonal": "apply",
}  # fmt: skip


def register(name: Operator, spec: OperatorSpec) -> None:
    """Add an operator.

    Raises:
        ConfigError: the name is taken.
    """
    if name in OPERATORS:
        raise ConfigError(f"operator {name!r} is registered twice; give one another name")
    OPERATORS[name] = spec


def form_of(source: Source) -> str:
    """`vector`, or the form of a transform."""
    return source.form if isinstance(source, Transform) else "vector"


def operator_of(term: SteerTerm, source: Source) -> Operator:
    """The operator of a term, after a check of what it takes.

    Raises:
        RequestError: an operator that does nothing with this artefact, a number that is missing,
            or one that would have no effect.
    """
    form = form_of(source)
    name = term.op or DEFAULTS[form]
    spec = OPERATORS[name]
    if form not in spec.forms:
        able = sorted(each for each, other in OPERATORS.items() if form in other.forms)
        _refuse(term, "op", f"got {name!r}, want one of {able}: {term.vector!r} is a {form}")
    if spec.needs_scale and term.scale is None:
        _refuse(term, "scale", f"got nothing, want a number for {name!r}")
    if term.scale is not None and not spec.takes_scale:
        _refuse(term, "scale", f"got {term.scale:g}, but {name!r} takes no scale: remove it")
    if spec.takes_value and term.value is None and name != "affine":
        _refuse(term, "value", f"got nothing, want a number for {name!r}")
    if term.value is not None and not spec.takes_value:
        _refuse(term, "value", f"got {term.value:g}, but {name!r} takes no value: remove it")
    if term.gate is not None and name != "add":
        _refuse(term, "gate", f"got one with {name!r}, want `op: add`: only additions are gated")
    _check_unit(term, name)
    if spec.share and term.scale is not None and not 0 < term.scale <= 1:
        _refuse(term, "scale", f"got {term.scale:g}, want a share of the way, over 0, at most 1")
    for field_name, number in (("scale", term.scale), ("value", term.value)):
        if number is not None and not math.isfinite(number):
            _refuse(term, field_name, f"got {number}, want a finite number")
    return name


def _check_unit(term: SteerTerm, name: Operator) -> None:
    if term.unit != "raw" and not OPERATORS[name].takes_unit:
        _refuse(term, "unit", f"got {term.unit!r}, but {name!r} counts nothing in it: remove it")
    if term.unit == "token" and name != "add":
        _refuse(term, "unit", f"got 'token' with {name!r}, want 'raw', 'unit' or 'residual'")
    if term.unit == "token" and term.gate is not None:
        _refuse(term, "unit", "got 'token' with a gate, want 'raw', 'unit' or 'residual'")


def features_of(term: SteerTerm, source: Source) -> dict[str, Reserved]:
    """What a term needs of the engine's tables: its field -> operator or feature.

    Raises:
        RequestError: as `operator_of`.
    """
    wanted: dict[str, Reserved] = {"op": operator_of(term, source)}
    wanted |= {"gate": "gate"} if term.gate is not None else {}
    wanted |= {"restore_norm": "restore_norm"} if term.restore_norm else {}
    return wanted | ({"unit": "token_unit"} if term.unit == "token" else {})


def strength_of(term: SteerTerm, source: Source) -> float:
    """What multiplies all that a term writes: its scale, or 1 where scale means another thing."""
    spec = OPERATORS[operator_of(term, source)]
    return term.scale if spec.strength and term.scale is not None else 1.0


def measure(unit: Unit, source: Source, layer: int) -> float:
    """What a `value` is counted in: 1, or the mean norm at the tap for the unit `residual`."""
    return source.residual_norm(layer) if unit == "residual" else 1.0


def direction_D(source: Source, layer: int) -> Floats:
    """The unit direction of a vector at a layer."""
    assert isinstance(source, Vector)
    raw_D = source.direction_D(layer).astype(np.float64)
    unit_D: Floats = raw_D / np.linalg.norm(raw_D)
    return unit_D


def _refuse(term: SteerTerm, what: str, said: str) -> None:
    raise RequestError(f"steer: {what} of {term.vector!r}: {said}", param="steer")


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
