"""Additions relative to the token's length, on a device.

Shape suffixes: T tokens, D width of the tap on this rank, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pilothouse.edits.ops.additions import RELATIVE
from pilothouse.engine.worker.device_table import (
    DeviceKind,
    StepTokens,
    flagged,
    length,
    register_device_table,
)


class RelativeTables(NamedTuple):
    """What each slot adds, as a share of the token's length."""

    vectors_SD: Tensor

    def apply(self, tokens: StepTokens, given_TD: Tensor) -> Tensor:  # noqa: ARG002
        """Return what is added to each token, by the length that it came with."""
        length_T1 = length(tokens.stream_TD, tokens.all_reduce).unsqueeze(-1)
        return tokens.strength_T1 * length_T1 * self.vectors_SD[tokens.slot_T]


register_device_table(
    DeviceKind(
        name=RELATIVE,
        tables=RelativeTables,
        shapes=lambda _, width: {"vectors_SD": (width,)},
        is_held=flagged("relative"),
    )
)
