"""One matrix and what is baked into it: its new numbers, and the same as a low-rank change.

Shapes: O outputs, I inputs, R rank, V rows of a table, D width of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pilothouse.edits.affine import Affine

Floats = NDArray[np.float64]
ROWS = 8192


@dataclass(slots=True)
class Change:
    """weight' = weight + sum of up @ down; bias' = bias + shift. All float64."""

    ups: list[Floats] = field(default_factory=list)
    downs: list[Floats] = field(default_factory=list)

    @property
    def up(self) -> Floats:
        """[O, R]."""
        return np.concatenate(self.ups, axis=1)

    @property
    def down(self) -> Floats:
        """[R, I]."""
        return np.concatenate(self.downs, axis=0)


@dataclass(slots=True)
class Matrix:
    """weight_OI and bias_O of a linear map, changed in turn by what is baked into it."""

    weight_OI: Floats
    bias_O: Floats
    change: Change = field(default_factory=Change)

    def map_output(self, affine: Affine) -> None:
        """Have it give A y + b where it gave y."""
        if affine.right_RD.size:
            down_RI = affine.right_RD @ self.weight_OI
            self._add(affine.left_DR, down_RI)
            self.bias_O = self.bias_O + affine.left_DR @ (affine.right_RD @ self.bias_O)
        self.bias_O = self.bias_O + affine.constant_D

    def map_input(self, affine: Affine) -> None:
        """Have it read A x + b where it read x."""
        self.bias_O = self.bias_O + self.weight_OI @ affine.constant_D
        if affine.right_RD.size:
            self._add(self.weight_OI @ affine.left_DR, affine.right_RD)

    def _add(self, up_OR: Floats, down_RI: Floats) -> None:
        self.change.ups.append(up_OR)
        self.change.downs.append(down_RI)
        self.weight_OI = self.weight_OI + up_OR @ down_RI


def map_table(table_VD: Floats, affine: Affine) -> Floats:
    """Rows of a table, each mapped."""
    out_VD: Floats = table_VD + affine.constant_D
    if affine.right_RD.size:
        for start in range(0, len(table_VD), ROWS):
            part = slice(start, start + ROWS)
            out_VD[part] += (table_VD[part] @ affine.right_RD.T) @ affine.left_DR.T
    return out_VD
