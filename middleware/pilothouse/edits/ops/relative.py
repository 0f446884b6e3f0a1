"""Additions relative to the token's own length: h + s |h| u, of terms with `unit: token`.

|h| is the length that the token came with.

Shapes: T tokens, D width of the tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from pilothouse.edits.operator import EXTRAS, Extra
from pilothouse.edits.ops.additions import RELATIVE, sum_D
from pilothouse.edits.table import (
    Flag,
    Floats,
    Given,
    Narrow,
    Numbers,
    Role,
    Table,
    Tokens,
    register_table,
)

if TYPE_CHECKING:
    from pilothouse.types import Tap


@register_table
@dataclass(frozen=True, slots=True, eq=False)
class Relative(Table[Numbers]):
    """The sum of what all terms add, as a share of each token's length."""

    relative_D: Narrow
    name = RELATIVE
    order = 40
    role = Role.WRITE
    flags = (Flag("relative", "an addition in token units", "token units"),)
    digest_order = 4
    does = "counts in token units"
    not_affine = "an addition in the token's own length (`unit: token`)"

    @classmethod
    def assemble(cls, given: Sequence[Given[Numbers]], tap: Tap) -> Self | None:  # noqa: ARG003
        """Return the sum; None where nothing is added or it cancels."""
        relative_D = sum_D(given)
        return None if relative_D is None else cls(relative_D)

    def reference(self, tokens: Tokens) -> Floats:
        """Return what is added to each token."""
        length_T1 = np.linalg.norm(tokens.h_TD, axis=1, keepdims=True)
        added_TD: Floats = tokens.coefficient * length_T1 * self.relative_D.astype(np.float64)
        return added_TD

    def growth(self, measure: float) -> float:  # noqa: ARG002
        """Return its length."""
        return float(np.linalg.norm(self.relative_D.astype(np.float64)))


EXTRAS["token_unit"] = Extra(
    field="unit",
    asked=lambda term: term.unit == "token",
    needs=frozenset({"relative"}),
    beside=lambda spec: spec.is_addition,
)
