"""Edits so large that they overflow are refused: NaN in KV blocks would outlive their request.

vLLM hands freed blocks to other requests as they are, and a masked NaN still poisons a weighted
sum.
"""

from __future__ import annotations

import math

import numpy as np

from pilothouse.edit.gate import Gate
from pilothouse.edit.layer import LayerEdit
from pilothouse.edit.program import Program

LOW, HIGH, SLOPE = (Gate._fields.index(name) for name in ("low", "high", "slope"))
OPENING = [Gate._fields.index(name) for name in ("sharpness", "shift")]
"""Arguments of a sigmoid: however large, what comes of them is between 0 and 1."""
BOUNDS = [Gate._fields.index(name) for name in ("threshold", "low", "high")]
"""May be infinite, which bounds nothing."""
LARGEST_EDIT = 1e18
"""Beyond it sums of squares overflow float32."""


def overflow_problem(program: Program) -> str | None:
    """What is wrong with a program's size; None when it is in bounds."""
    for tap, edit in program.layers.items():
        largest = max(1.0, abs(program.coefficient)) * _largest(edit)
        if not largest < LARGEST_EDIT:
            return (
                f"at layer {tap.layer} the edit reaches {largest:.1e}; the engine takes less than "
                f"{LARGEST_EDIT:.0e}: lower the scale"
            )
    return None


def _largest(edit: LayerEdit) -> float:
    """What is added, or what a row makes of a stream of length one, or a map of one dimension."""
    found = [0.0]
    for added_D in (edit.addition_D, edit.relative_D):
        if added_D is not None:
            found.append(float(np.abs(added_D).max()))
    if edit.diagonal_4D is not None:
        found.append(float(np.abs(edit.diagonal_4D[:2]).max()))
    if edit.rank:
        if not np.isfinite(np.delete(edit.gates_RG, BOUNDS, axis=1)).all():
            return math.inf
        gates_RG = np.where(np.isfinite(edit.gates_RG), edit.gates_RG, 0.0)
        gates_RG[:, OPENING] = 0.0
        # Between bounds it is the bounds that count.
        bounded_R = np.isfinite(edit.gates_RG[:, [LOW, HIGH]]).all(axis=1)
        gates_RG[bounded_R, SLOPE] = 0.0
        sizes = [
            np.abs(each.astype(np.float64)).max(initial=1.0)
            for each in (edit.reads_RD, edit.writes_RD, gates_RG)
        ]
        found.append(float(np.prod(sizes)))
    return max(found)
