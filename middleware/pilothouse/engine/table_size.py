"""Memory of the edit tables, known before anything is loaded."""

from __future__ import annotations

from pilothouse.edit.gate import GATE_WIDTH
from pilothouse.edit.layer import DIAGONAL_ROWS
from pilothouse.engine.plan import EditPlan

FLOAT32_BYTES = 4


def table_bytes(edits: EditPlan, *, slots: int, width: int, num_targets: int) -> int:
    """Bytes of device memory of one tap's tables, slot 0 included."""
    numbers = slots * width + num_targets * width
    numbers += slots * edits.rank * (2 * width + GATE_WIDTH + edits.rank)
    numbers += slots * DIAGONAL_ROWS * width * edits.diagonal + slots * edits.restores_norm
    numbers += slots * (width + 1) * edits.slerp + slots * width * edits.relative
    policy_rank = len(edits.policy_rows)
    numbers += policy_rank * (2 * width + GATE_WIDTH + policy_rank)
    return FLOAT32_BYTES * numbers
