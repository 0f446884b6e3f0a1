"""Edits so large that they overflow are refused: NaN in KV blocks would outlive their request.

vLLM hands freed blocks to other requests as they are, and a masked NaN still poisons a weighted
sum.
"""

from __future__ import annotations

from pilothouse.edits.program import Program

LARGEST_EDIT = 1e18
"""Beyond it sums of squares overflow float32."""


def overflow_problem(program: Program) -> str | None:
    """What is wrong with a program's size; None when it is in bounds."""
    for tap, edit in program.layers.items():
        reached = max(each.largest() for each in edit.tables)
        largest = max(1.0, abs(program.coefficient)) * reached
        if not largest < LARGEST_EDIT:
            return (
                f"at layer {tap.layer} the edit reaches {largest:.1e}; the engine takes less than "
                f"{LARGEST_EDIT:.0e}: lower the scale"
            )
    return None
