"""A turn towards a direction along the sphere: every token goes a share of the way, at its length.

With w the angle between h and the unit direction u, q = |h - <u, h> u| and f the share, the part
along u becomes |h| cos((1 - f) w) and the part across is scaled by |h| sin((1 - f) w) / q. This is
|h| slerp(h / |h|, u, f) (Shoemake 1985), written so that nothing is divided by the length.

Shapes: T tokens, D width of the tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.edits.operator import OperatorSpec, direction_D, no_growth, register
from pilothouse.edits.table import (
    Content,
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

NARROW = 1e-3
"""q / |h| up to which float32 cannot tell well which way the part across points."""


@register_table
@dataclass(frozen=True, slots=True, eq=False)
class Slerp(Table[Numbers]):
    """A unit direction, and how much of the way to it is gone at a strength of 1."""

    unit_D: Narrow
    share: float
    name = "slerp"
    order = 20
    role = Role.MAP
    flags = (Flag("slerp", "a slerp", "slerp"),)
    digest_order = 5
    only_one = "slerp"
    does = "goes a share of a way"
    not_affine = "a turn towards a direction (slerp)"

    @classmethod
    def assemble(cls, given: Sequence[Given[Numbers]], tap: Tap) -> Self | None:  # noqa: ARG003
        """Return the one turn."""
        share, part = sole(given)
        return cls(frozen(part.values), share)

    def reference(self, tokens: Tokens) -> Floats:
        """Return the tokens where their turn leaves them."""
        share = tokens.coefficient * self.share
        return slerped(tokens.moved_TD, self.unit_D.astype(np.float64), share)

    @classmethod
    def content(cls, table: Self | None, width: int) -> Content:  # noqa: ARG003
        """Return the share, which is 0 where there is no turn, and the direction."""
        share = np.float32(0.0 if table is None else table.share).astype("<f4").tobytes()
        return Content(head=share, arrays=(None if table is None else table.unit_D,))

    def largest(self) -> float:
        """Return 0: lengths stay."""
        return 0.0


def slerped(h_TD: Floats, unit_D: Floats, share: float) -> Floats:
    """Return h' in float64. A token that points the opposite way has no shortest way and stays."""
    along_T = h_TD @ unit_D
    across_T = np.linalg.norm(h_TD - along_T[:, None] * unit_D, axis=1)
    length_T = np.hypot(along_T, across_T)
    left_T = (1.0 - share) * np.arctan2(across_T, along_T)
    wide_T = across_T > NARROW * length_T
    kept_T = np.full_like(along_T, 1.0 - share)
    kept_T[wide_T] = length_T[wide_T] * np.sin(left_T[wide_T]) / across_T[wide_T]
    moved_T = length_T * np.cos(left_T) - kept_T * along_T
    turned_TD = kept_T[:, None] * h_TD + moved_T[:, None] * unit_D
    stays_T1 = (~wide_T & (along_T <= 0))[:, None]
    out_TD: Floats = np.where(stays_T1, h_TD, turned_TD)
    return out_TD


def _slerp(_: SteerTerm, source: Source, layer: int) -> Parts:
    return (Numbers("slerp", direction_D(source, layer)),)


register(
    "slerp",
    OperatorSpec({"vector": frozenset({"slerp"})}, _slerp, no_growth, needs_scale=True, share=True),
)
