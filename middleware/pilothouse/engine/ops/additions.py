"""Additions on a device. Every tap that can be edited has them.

Shape suffixes: T tokens, D width of the tap on this rank, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pilothouse.edits.ops.additions import ADDITIONS
from pilothouse.engine.worker.device_table import DeviceKind, StepTokens, register_device_table


class AdditionTables(NamedTuple):
    """What each slot adds."""

    vectors_SD: Tensor

    def apply(self, tokens: StepTokens, given_TD: Tensor) -> Tensor:  # noqa: ARG002
        """Return what is added to each token."""
        return tokens.strength_T1 * self.vectors_SD[tokens.slot_T]


register_device_table(
    DeviceKind(
        name=ADDITIONS,
        tables=AdditionTables,
        shapes=lambda _, width: {"vectors_SD": (width,)},
        is_held=lambda _: True,
    )
)
