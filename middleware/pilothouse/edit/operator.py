"""What an operator is: what it takes, what becomes of it, and the table of all of them.

Shapes: D width of the tap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from pilothouse.edit.gate import Gate
from pilothouse.edit.latent import Latent
from pilothouse.edit.statistic import Statistic
from pilothouse.errors import ConfigError, RequestError
from pilothouse.model.catalogue import Source
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.model.transform import Transform

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm
    from pilothouse.types import Operator, Reserved

Floats = NDArray[np.float64]


class Row(NamedTuple):
    """A gated row in float64. Projections are given by their unit direction alone, as `read_D`.

    One with a `latent` reads that code instead, and `read_D` is zeros.
    """

    read_D: Floats
    write_D: Floats
    gate: Gate
    statistic: Statistic = Statistic.NONE
    latent: Latent | None = None


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


def form_of(source: Source | Sae) -> str:
    """`vector`, `sae`, or the form of a transform."""
    if isinstance(source, Sae):
        return "sae"
    return source.form if isinstance(source, Transform) else "vector"


def operator_of(term: SteerTerm, source: Source) -> Operator:
    """The operator of a term, after a check of what it takes.

    Raises:
        RequestError: an operator that does nothing with this artefact, a number that is missing,
            or one that would have no effect.
    """
    form = form_of(source)
    asked = term.op or DEFAULTS[form]
    able = {each: spec for each, spec in OPERATORS.items() if form in spec.forms}
    named = next((each for each in able if each == asked), None)
    if named is None:
        _refuse(term, "op", f"got {asked!r}, want one of {sorted(able)}: {term.name!r} is a {form}")
    name: Operator = named
    spec = able[name]
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
    if term.unit == "max_act":
        _refuse(term, "unit", "got 'max_act', which is of SAE features, want another")
    if term.unit == "token" and name != "add":
        _refuse(term, "unit", f"got 'token' with {name!r}, want 'raw', 'unit' or 'residual'")
    if term.unit == "token" and term.gate is not None:
        _refuse(term, "unit", "got 'token' with a gate, want 'raw', 'unit' or 'residual'")


def features_of(term: SteerTerm, source: Source | Sae) -> dict[str, Reserved]:
    """What a term needs of the engine's tables: its field -> operator or feature.

    Raises:
        RequestError: as `operator_of`.
    """
    wanted: dict[str, Reserved] = (
        {"sae": "feature"} if isinstance(source, Sae) else {"op": operator_of(term, source)}
    )
    wanted |= {"gate": "gate"} if term.gate is not None else {}
    wanted |= {"restore_norm": "restore_norm"} if term.restore_norm else {}
    return wanted | ({"unit": "token_unit"} if term.unit == "token" else {})


def strength_of(term: SteerTerm, source: Source | Sae) -> float:
    """What multiplies all that a term writes: its scale, or 1 where scale means another thing."""
    if isinstance(source, Sae):
        return 1.0
    spec = OPERATORS[operator_of(term, source)]
    return term.scale if spec.strength and term.scale is not None else 1.0


def _refuse(term: SteerTerm, what: str, said: str) -> NoReturn:
    raise RequestError(f"steer: {what} of {term.name!r}: {said}", param="steer")
