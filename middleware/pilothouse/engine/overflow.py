"""Edits so large that they overflow are refused: NaN in KV blocks would outlive their request.

vLLM hands freed blocks to other requests as they are, and a masked NaN still poisons a weighted
sum. Shape suffixes: D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pilothouse.types import FloatArray

LARGEST_EDIT = 1e18
"""Beyond it sums of squares overflow float32."""


def overflow_problem(coefficient: float, rows: Mapping[int, FloatArray]) -> str | None:
    """What is wrong with an edit `coefficient * row_D` at each layer; None when it is in bounds."""
    for layer, row_D in rows.items():
        largest = abs(coefficient) * float(np.abs(row_D).max())
        if not largest < LARGEST_EDIT:
            return (
                f"at layer {layer} the edit reaches {largest:.1e}; the engine takes less than "
                f"{LARGEST_EDIT:.0e}: lower the scale"
            )
    return None
