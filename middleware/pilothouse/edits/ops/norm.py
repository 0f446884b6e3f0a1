"""The length of the token at the end: as edited, as it came, or no longer than that.

Terms ask for it with `restore_norm`.

Shapes: T tokens, D width of the tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Self

import numpy as np

from pilothouse.edits.operator import EXTRAS, Extra
from pilothouse.edits.table import (
    Content,
    Flag,
    Floats,
    Given,
    Numbers,
    Parts,
    Role,
    Table,
    Tokens,
    register_table,
)

if TYPE_CHECKING:
    from pilothouse.edits.sources import Sources
    from pilothouse.term import SteerTerm
    from pilothouse.types import Tap

NORM = "norm"


class Norm(IntEnum):
    """What becomes of the token's length at the end; the numbers are the engine's."""

    AS_EDITED = 0
    AS_BEFORE = 1
    NOT_LONGER = 2


@register_table
@dataclass(frozen=True, slots=True, eq=False)
class RestoredNorm(Table[Numbers]):
    """Which length each token has at the end."""

    norm: Norm
    name = NORM
    order = 50
    role = Role.FINISH
    flags = (Flag("restores_norm", "a restored norm", "norms"),)
    digest_order = 0
    edits = False
    does = "restores norms"
    not_affine = "something that looks at the token (its length, other codes)"

    @classmethod
    def of_term(cls, term: SteerTerm, parts: Parts, tap: Tap, sources: Sources) -> Parts:  # noqa: ARG003
        """Return one part more where the term restores the norm."""
        if not term.restore_norm:
            return parts
        norm = Norm.NOT_LONGER if term.restore_norm == "if_longer" else Norm.AS_BEFORE
        return (*parts, Numbers(NORM, np.array(float(norm))))

    @classmethod
    def assemble(cls, given: Sequence[Given[Numbers]], tap: Tap) -> Self | None:  # noqa: ARG003
        """Return what holds for all terms: what is as long as before is not longer either."""
        asked = {Norm(int(part.values)) for _, part in given}
        return cls(Norm.AS_BEFORE if Norm.AS_BEFORE in asked else max(asked))

    def reference(self, tokens: Tokens) -> Floats:
        """Return the edited tokens at their length."""
        before_T1 = np.linalg.norm(tokens.h_TD, axis=1, keepdims=True)
        ratio_T1 = before_T1 / np.linalg.norm(tokens.out_TD, axis=1, keepdims=True)
        if self.norm == Norm.NOT_LONGER:
            ratio_T1 = np.minimum(ratio_T1, 1.0)
        restored_TD: Floats = tokens.out_TD * ratio_T1
        return restored_TD

    @classmethod
    def content(cls, table: Self | None, width: int) -> Content:  # noqa: ARG003
        """Return the length's number, 0 for `as edited`."""
        return Content(head=bytes([Norm.AS_EDITED if table is None else table.norm]))

    def largest(self) -> float:
        """Return 0: no number of it is written."""
        return 0.0


EXTRAS["restore_norm"] = Extra(
    field="restore_norm",
    asked=lambda term: bool(term.restore_norm),
    needs=frozenset({"restores_norm"}),
)
