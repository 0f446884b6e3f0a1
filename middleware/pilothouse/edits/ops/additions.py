"""Additions: h + s v, the same for every token; and the operator `add`.

v is a vector as it is stored, of length 1, of the mean norm at the tap, or of the token's own
length, by the term's `unit`.

Shapes: T tokens, D width of the tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.vector import Vector
from pilothouse.edits.operator import (
    NOTHING_MORE,
    OperatorSpec,
    direction_D,
    measure,
    register,
)
from pilothouse.edits.table import (
    Affine,
    Floats,
    Given,
    Narrow,
    Numbers,
    Parts,
    Role,
    Table,
    Tokens,
    frozen,
    register_table,
)

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm
    from pilothouse.types import Tap

ADDITIONS = "additions"
RELATIVE = "relative"
"""The kind that takes additions in token units."""


@register_table
@dataclass(frozen=True, slots=True, eq=False)
class Additions(Table[Numbers]):
    """The sum of what all terms add. Every tap that can be edited has a table for it."""

    addition_D: Narrow
    name = ADDITIONS
    # The engine's sum of all that is written begins with it.
    order = 0
    role = Role.WRITE
    digest_order = 1
    reads_stream = False
    for_policies = True

    @classmethod
    def assemble(cls, given: Sequence[Given[Numbers]], tap: Tap) -> Self | None:  # noqa: ARG003
        """Return the sum; None where nothing is added or it cancels."""
        addition_D = sum_D(given)
        return None if addition_D is None else cls(addition_D)

    def reference(self, tokens: Tokens) -> Floats:
        """Return what is added to every token."""
        added_D: Floats = tokens.coefficient * self.addition_D.astype(np.float64)
        return np.broadcast_to(added_D, tokens.h_TD.shape)

    def affine(self, coefficient: float) -> Affine | str:
        """Return a constant."""
        width = len(self.addition_D)
        constant_D = coefficient * self.addition_D.astype(np.float64)
        return Affine(np.zeros((width, 0)), np.zeros((0, width)), constant_D)

    def growth(self, measure: float) -> float:
        """Return its length in mean lengths."""
        return float(np.linalg.norm(self.addition_D.astype(np.float64))) / measure


def sum_D(given: Sequence[Given[Numbers]]) -> Narrow | None:
    """Return the weighed sum of vectors, float32; None where there are none or they cancel."""
    if not given:
        return None
    each_ND = np.stack([weight * part.values for weight, part in given])
    # Sorted by value in each dimension, so that the order of terms cannot change a bit.
    summed_D = np.sort(each_ND, axis=0).sum(axis=0).astype(np.float32) + np.float32(0)
    return frozen(summed_D) if summed_D.any() else None


def shift_D(term: SteerTerm, source: Source, layer: int) -> Floats:
    """Return the vector of a term in the stream's units; its unit is not `token`."""
    assert isinstance(source, Vector)
    if term.unit == "raw":
        return source.direction_D(layer).astype(np.float64)
    return direction_D(source, layer) * measure(term.unit, source, layer)


def shift_growth(term: SteerTerm, source: Source, layer: int) -> float:
    """Bound the growth of an addition by its length."""
    assert term.scale is not None
    if term.unit == "token":
        return abs(term.scale)
    length = float(np.linalg.norm(shift_D(term, source, layer)))
    return abs(term.scale) * length / source.residual_norm(layer)


def _add(term: SteerTerm, source: Source, layer: int) -> Parts:
    if term.unit == "token":
        return (Numbers(RELATIVE, direction_D(source, layer)),)
    return (Numbers(ADDITIONS, shift_D(term, source, layer)),)


register(
    "add",
    OperatorSpec(
        {"vector": NOTHING_MORE},
        _add,
        shift_growth,
        default_of=("vector",),
        needs_scale=True,
        takes_unit=True,
        is_addition=True,
    ),
)
