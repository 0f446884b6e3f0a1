"""Maps of single dimensions, on a device.

Shape suffixes: T tokens, D width of the tap on this rank, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.edits.ops.diagonal import DIAGONAL, DIAGONAL_ROWS
from pilothouse.engine.worker.device_table import (
    DeviceKind,
    StepTokens,
    flagged,
    register_device_table,
)


class DiagonalTables(NamedTuple):
    """Each slot's weight, bias, lower and upper bound of every dimension."""

    maps_S4D: Tensor

    def apply(self, tokens: StepTokens, given_TD: Tensor) -> Tensor:
        """Return what the map adds to each token."""
        return tokens.strength_T1 * diagonal(given_TD, self.maps_S4D, tokens.slot_T)


def diagonal(stream_TD: Tensor, maps_S4D: Tensor, slot_T: Tensor) -> Tensor:
    """Return weight h + bias where low < h < high, else 0."""
    low_TD, high_TD = maps_S4D[slot_T, 2], maps_S4D[slot_T, 3]
    inside_TD = (stream_TD > low_TD) & (stream_TD < high_TD)
    mapped_TD = maps_S4D[slot_T, 0] * stream_TD + maps_S4D[slot_T, 1]
    return torch.where(inside_TD, mapped_TD, torch.zeros_like(mapped_TD))


register_device_table(
    DeviceKind(
        name=DIAGONAL,
        tables=DiagonalTables,
        shapes=lambda _, width: {"maps_S4D": (DIAGONAL_ROWS, width)},
        is_held=flagged("diagonal"),
    )
)
