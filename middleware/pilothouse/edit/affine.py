"""What an edit is as one affine map of each token, where it is one.

    h' = h + left (right h) + constant

Additions are constants; ablations, reflections, fixed projections and low-rank maps are linear in
h; whatever looks at the token to decide how much it does is neither.

Shapes: R rows, D width of the tap.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.edit.gate import OPEN, Gate
from pilothouse.edit.layer import LayerEdit, Norm

Floats = NDArray[np.float64]
TAKEN = frozenset({"addition_D", "reads_RD", "writes_RD", "gates_RG", "sees_RR"})
SAID = {
    "relative_D": "an addition in the token's own length (`unit: token`)",
    "slerp_D": "a turn towards a direction (slerp)",
    "diagonal_4D": "a map of single dimensions, which is of full rank",
}


class Affine(NamedTuple):
    """left_DR, right_RD and constant_D in float64; R is 0 where only a constant is added."""

    left_DR: Floats
    right_RD: Floats
    constant_D: Floats

    @property
    def is_linear(self) -> bool:
        """No constant."""
        return not self.constant_D.any()

    @property
    def is_shift(self) -> bool:
        """Nothing but a constant."""
        return not len(self.right_RD)


def affine_of(edit: LayerEdit, coefficient: float) -> Affine | str:
    """The map of an edit at a strength, or why it is not one, in words."""
    for each in fields(edit):
        given, default = getattr(edit, each.name), each.default
        if each.name in TAKEN or given is None or each.name == "slerp_share":
            continue
        if each.name == "norm" and given == Norm.AS_EDITED:
            continue
        if default is not MISSING and isinstance(default, int | float) and given == default:
            continue
        if isinstance(given, tuple) and not given:
            continue
        return SAID.get(each.name, "something that looks at the token (its length, other codes)")
    gates = [Gate(*row.tolist()) for row in edit.gates_RG.astype(np.float64)]
    if any(each.in_plane for each in gates):
        return "a turn in a plane, which hangs on how much of the token lies in it"
    if not all(_is_linear(each) for each in gates):
        return "a gate: how much is written hangs on the token"
    width = edit.reads_RD.shape[1]
    slope_R = np.array([each.slope for each in gates])
    offset_R = slope_R * [each.bias for each in gates] + [each.intercept for each in gates]
    reads_RD, writes_RD = edit.reads_RD.astype(np.float64), edit.writes_RD.astype(np.float64)
    # Each row sees what those before it wrote; together they are one triangular system.
    before_RR = np.tril(edit.sees_RR.astype(np.float64), -1)
    solved_RR = np.linalg.inv(np.eye(len(gates)) - coefficient * slope_R[:, None] * before_RR)
    left_DR = coefficient * writes_RD.T @ solved_RR
    constant_D = left_DR @ offset_R if gates else np.zeros(width)
    if edit.addition_D is not None:
        constant_D = constant_D + coefficient * edit.addition_D.astype(np.float64)
    return Affine(left_DR, slope_R[:, None] * reads_RD, constant_D)


def _is_linear(gate: Gate) -> bool:
    bounds = (gate.threshold, gate.low, gate.high)
    return bounds == (-np.inf, -np.inf, np.inf) and gate.sharpness == 0.0 and gate.shift >= OPEN
