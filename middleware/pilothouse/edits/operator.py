"""What an operator is: what it takes, what becomes of it. Each is registered in `edit.ops`.

Shapes: D width of the tap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.vector import Vector
from pilothouse.edits.table import Floats, Parts
from pilothouse.errors import ConfigError
from pilothouse.term import allow_operator

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm
    from pilothouse.types import Unit

NOTHING_MORE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """One operator: what it takes and what it becomes.

    `forms` are the forms of artefacts that it works with (`vector`, or a transform's), each with
    what it needs of a tap beside additions: the word `rows`, and names of flags of tables.
    `growth` bounds how much longer h can get, as a share of the mean norm at the tap; artefacts
    that are maps of their own are taken at their word up to a scale of 1.
    """

    forms: Mapping[str, frozenset[str]]
    compile: Callable[[SteerTerm, Source, int], Parts]
    growth: Callable[[SteerTerm, Source, int], float]
    default_of: tuple[str, ...] = ()
    """The forms that are made for it: what they do where a term names no operator."""
    needs_scale: bool = False
    takes_scale: bool = True
    takes_value: bool = False
    needs_value: bool = True
    """Where it takes one: whether a term has to say it, or it is 0."""
    takes_unit: bool = False
    strength: bool = True
    """The scale multiplies all that is written, so it can be a coefficient of the request."""
    share: bool = False
    """The scale is a share of a way: over 0, at most 1."""
    is_addition: bool = False
    """It adds the same to every token: a gate can weigh it, it can be counted in token units, and
    its growth is that of the sum."""
    at_writers: bool = False
    """It can be done at everything that writes to the stream (`sites: writers`)."""


@dataclass(frozen=True, slots=True)
class Extra:
    """Something that a term can ask for beside its operator, listed like one where reserved.

    `field` is the term's field that asks for it, `needs` as in `OperatorSpec.forms`, and `beside`
    says which operators it goes with.
    """

    field: str
    asked: Callable[[SteerTerm], bool]
    needs: frozenset[str]
    beside: Callable[[OperatorSpec], bool] | None = None
    """None: it goes with all of them."""


OPERATORS: dict[str, OperatorSpec] = {}
DEFAULTS: dict[str, str] = {}
"""Form of an artefact -> what it does where a term does not say."""
EXTRAS: dict[str, Extra] = {}


def register(name: str, spec: OperatorSpec) -> None:
    """Add an operator; from then on terms can name it.

    Raises:
        ConfigError: the name is taken.
    """
    if name in OPERATORS:
        raise ConfigError(f"operator {name!r} is registered twice; give one another name")
    OPERATORS[name] = spec
    DEFAULTS.update(dict.fromkeys(spec.default_of, name))
    allow_operator(name)


def measure(unit: Unit, source: Source, layer: int) -> float:
    """Return what a `value` is counted in: 1, or for `residual` the mean norm at the tap."""
    return source.residual_norm(layer) if unit == "residual" else 1.0


def direction_D(source: Source, layer: int) -> Floats:
    """Return the unit direction of a vector at a layer."""
    assert isinstance(source, Vector)
    raw_D = source.direction_D(layer).astype(np.float64)
    unit_D: Floats = raw_D / np.linalg.norm(raw_D)
    return unit_D


def value_growth(term: SteerTerm, source: Source, layer: int) -> float:
    """Bound the growth of what moves a token to a value."""
    value = (term.value or 0.0) * measure(term.unit, source, layer)
    return abs(value) / source.residual_norm(layer)


def share_growth(term: SteerTerm, *_: object) -> float:
    """Bound the growth of a map that is taken at its word up to a scale of 1."""
    return max(0.0, abs(1.0 if term.scale is None else term.scale) - 1.0)


def no_growth(*_: object) -> float:
    """Bound the growth of what keeps lengths."""
    return 0.0
