"""Turns towards a direction, on a device.

Shape suffixes: T tokens, D width of the tap on this rank, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.edits.ops.slerp import NARROW
from pilothouse.engine.worker.device_table import (
    AllReduce,
    DeviceKind,
    StepTokens,
    flagged,
    length,
    register_device_table,
)


class SlerpTables(NamedTuple):
    """Each slot's unit direction, and how much of the way to it is gone."""

    units_SD: Tensor
    shares_S: Tensor

    def apply(self, tokens: StepTokens, given_TD: Tensor) -> Tensor:
        """Return what the turn adds to each token."""
        share_T = tokens.coefficient_T * self.shares_S[tokens.slot_T]
        return slerp(given_TD, self.units_SD[tokens.slot_T], share_T, tokens.all_reduce)


def slerp(
    stream_TD: Tensor, unit_TD: Tensor, share_T: Tensor, all_reduce: AllReduce | None
) -> Tensor:
    """Return what `slerped` adds, each token with its own direction and share; exact at 0."""
    along_T = (stream_TD * unit_TD).sum(-1)
    if all_reduce is not None:
        along_T = all_reduce(along_T)
    # From the part across itself: a difference of squares would lose it where it is small.
    across_T = length(stream_TD - along_T.unsqueeze(-1) * unit_TD, all_reduce)
    length_T = torch.hypot(along_T, across_T)
    left_T = (1.0 - share_T) * torch.atan2(across_T, along_T)
    wide_T = across_T > NARROW * length_T
    divisor_T = torch.where(wide_T, across_T, torch.ones_like(across_T))
    kept_T = torch.where(wide_T, length_T * torch.sin(left_T) / divisor_T, 1.0 - share_T)
    moved_T = length_T * torch.cos(left_T) - kept_T * along_T
    turned_TD = (kept_T - 1.0).unsqueeze(-1) * stream_TD + moved_T.unsqueeze(-1) * unit_TD
    turns_T = (share_T != 0) & (wide_T | (along_T > 0))
    return torch.where(turns_T.unsqueeze(-1), turned_TD, torch.zeros_like(turned_TD))


register_device_table(
    DeviceKind(
        name="slerp",
        tables=SlerpTables,
        shapes=lambda _, width: {"units_SD": (width,), "shares_S": ()},
        is_held=flagged("slerp"),
    )
)
