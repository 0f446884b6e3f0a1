"""Maps of single dimensions: h + s m (w h + b), where m says which lie within their bounds.

AcT (Rodriguez et al. 2024), AUSteer, neurons that are set or scaled; and the operator `replace`,
h + s (v - h), which is activation patching.

Shapes: T tokens, D width of the tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.edits.operator import OperatorSpec, register, share_growth
from pilothouse.edits.ops.additions import shift_D
from pilothouse.edits.table import (
    Flag,
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
    sole,
)

if TYPE_CHECKING:
    from pilothouse.term import SteerTerm
    from pilothouse.types import Tap

DIAGONAL = "diagonal"
DIAGONAL_ROWS = 4
"""weight, bias, low, high: h + c (weight h + bias) where low < h < high."""


@register_table
@dataclass(frozen=True, slots=True, eq=False)
class Diagonal(Table[Numbers]):
    """A map of each dimension by itself."""

    diagonal_4D: Narrow
    name = DIAGONAL
    order = 10
    role = Role.MAP
    flags = (Flag("diagonal", "a map of single dimensions", "diagonal maps"),)
    digest_order = 3
    only_one = "map of single dimensions"
    does = "maps single dimensions"
    not_affine = "a map of single dimensions, which is of full rank"

    @classmethod
    def assemble(cls, given: Sequence[Given[Numbers]], tap: Tap) -> Self | None:  # noqa: ARG003
        """Return the one map; its bounds are not weighed."""
        weight, part = sole(given)
        return cls(frozen(part.values * np.array([[weight], [weight], [1.0], [1.0]])))

    def reference(self, tokens: Tokens) -> Floats:
        """Return the tokens as the map leaves them."""
        h_TD = tokens.moved_TD
        weight_D, bias_D, low_D, high_D = self.diagonal_4D.astype(np.float64)
        inside_TD = (h_TD > low_D) & (h_TD < high_D)
        mapped_TD: Floats = h_TD + tokens.coefficient * inside_TD * (weight_D * h_TD + bias_D)
        return mapped_TD

    def largest(self) -> float:
        """Return the largest weight or bias; bounds bound."""
        return float(np.abs(self.diagonal_4D[:2]).max())


def _replace(term: SteerTerm, source: Source, layer: int) -> Parts:
    target_D = shift_D(term, source, layer)
    diagonal_4D = np.zeros((DIAGONAL_ROWS, len(target_D)))
    diagonal_4D[0], diagonal_4D[1] = -1.0, target_D
    diagonal_4D[2], diagonal_4D[3] = -np.inf, np.inf
    return (Numbers(DIAGONAL, diagonal_4D),)


register(
    "replace",
    OperatorSpec({"vector": frozenset({"diagonal"})}, _replace, share_growth, takes_unit=True),
)
