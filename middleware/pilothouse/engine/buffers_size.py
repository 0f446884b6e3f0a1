"""Memory of the edit tables, known before anything is loaded."""

from __future__ import annotations

FLOAT32_BYTES = 4


def table_bytes(*, slots: int, d_model: int, edit_layers: int, num_targets: int) -> int:
    """Bytes of device memory of all edit tables, slot 0 included."""
    return FLOAT32_BYTES * d_model * edit_layers * (slots + num_targets)
