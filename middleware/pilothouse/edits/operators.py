"""Which operator a term means, and what it needs: every registered one, looked up.

The operators stand in `edit.ops`; docs/reference/operators has a page for each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.transform import Transform
from pilothouse.edits.operator import DEFAULTS, EXTRAS, OPERATORS, OperatorSpec, register
from pilothouse.edits.ops import KINDS
from pilothouse.errors import RequestError

if TYPE_CHECKING:
    from pilothouse.edits.sources import Sources
    from pilothouse.edits.table import Parts
    from pilothouse.term import SteerTerm
    from pilothouse.types import Tap

__all__ = [
    "DEFAULTS",
    "EXTRAS",
    "OPERATORS",
    "OperatorSpec",
    "features_of",
    "form_of",
    "operator_of",
    "register",
    "strength_of",
    "with_extras",
]


def form_of(source: Source | Sae) -> str:
    """Return `vector`, `sae`, or the form of a transform."""
    if isinstance(source, Sae):
        return "sae"
    return source.form if isinstance(source, Transform) else "vector"


def operator_of(term: SteerTerm, source: Source) -> str:
    """Return the operator of a term, after a check of what it takes.

    Raises:
        RequestError: an operator that does nothing with this artefact, a number that is missing,
            or one that would have no effect.
    """
    form = form_of(source)
    name = term.op or DEFAULTS[form]
    able = {each: spec for each, spec in OPERATORS.items() if form in spec.forms}
    if name not in able:
        _refuse(term, "op", f"got {name!r}, want one of {sorted(able)}: {term.name!r} is a {form}")
    spec = able[name]
    if spec.needs_scale and term.scale is None:
        _refuse(term, "scale", f"got nothing, want a number for {name!r}")
    if term.scale is not None and not spec.takes_scale:
        _refuse(term, "scale", f"got {term.scale:g}, but {name!r} takes no scale: remove it")
    if spec.takes_value and spec.needs_value and term.value is None:
        _refuse(term, "value", f"got nothing, want a number for {name!r}")
    if term.value is not None and not spec.takes_value:
        _refuse(term, "value", f"got {term.value:g}, but {name!r} takes no value: remove it")
    if term.gate is not None and not spec.is_addition:
        _refuse(term, "gate", f"got one with {name!r}, want `op: add`: only additions are gated")
    _check_unit(term, name)
    if spec.share and term.scale is not None and not 0 < term.scale <= 1:
        _refuse(term, "scale", f"got {term.scale:g}, want a share of the way, over 0, at most 1")
    for field_name, number in (("scale", term.scale), ("value", term.value)):
        if number is not None and not math.isfinite(number):
            _refuse(term, field_name, f"got {number}, want a finite number")
    return name


def _check_unit(term: SteerTerm, name: str) -> None:
    if term.unit != "raw" and not OPERATORS[name].takes_unit:
        _refuse(term, "unit", f"got {term.unit!r}, but {name!r} counts nothing in it: remove it")
    if term.unit == "max_act":
        _refuse(term, "unit", "got 'max_act', which is of SAE features, want another")
    if term.unit == "token" and not OPERATORS[name].is_addition:
        _refuse(term, "unit", f"got 'token' with {name!r}, want 'raw', 'unit' or 'residual'")
    if term.unit == "token" and term.gate is not None:
        _refuse(term, "unit", "got 'token' with a gate, want 'raw', 'unit' or 'residual'")


def features_of(term: SteerTerm, source: Source | Sae) -> dict[str, str]:
    """Return what a term needs of the engine's tables: its field -> operator or extra.

    Raises:
        RequestError: as `operator_of`.
    """
    wanted = {} if isinstance(source, Sae) else {"op": operator_of(term, source)}
    return wanted | {
        extra.field: name for name, extra in sorted(EXTRAS.items()) if extra.asked(term)
    }


def strength_of(term: SteerTerm, source: Source | Sae) -> float:
    """Return what multiplies all that a term writes: its scale, or 1 where that is no strength."""
    if isinstance(source, Sae):
        return 1.0
    spec = OPERATORS[operator_of(term, source)]
    return term.scale if spec.strength and term.scale is not None else 1.0


def with_extras(term: SteerTerm, parts: Parts, tap: Tap, sources: Sources) -> Parts:
    """Return the parts of a term once its fields beside the operator are heeded.

    Raises:
        RequestError: a gate whose probe cannot be read there.
    """
    for kind in KINDS.values():
        parts = kind.of_term(term, parts, tap, sources)
    return parts


def _refuse(term: SteerTerm, what: str, said: str) -> NoReturn:
    raise RequestError(f"steer: {what} of {term.name!r}: {said}", param="steer")
