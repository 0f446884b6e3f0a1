"""Lengths that are kept, on a device.

Shape suffixes: T tokens, D width of the tap on this rank, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.edits.ops.norm import NORM, Norm
from pilothouse.engine.worker.device_table import (
    AllReduce,
    DeviceKind,
    StepTokens,
    flagged,
    register_device_table,
)

NOT_LONGER = float(Norm.NOT_LONGER)


class NormTables(NamedTuple):
    """Each slot's `Norm`, as a float32 number."""

    norms_S: Tensor

    def apply(self, tokens: StepTokens, given_TD: Tensor) -> Tensor:
        """Return the change that is left of a change."""
        restored_T = self.norms_S[tokens.slot_T]
        return with_norm_kept(tokens.stream_TD, given_TD, restored_T, tokens.all_reduce)


def with_norm_kept(
    stream_TD: Tensor, delta_TD: Tensor, restored_T: Tensor, all_reduce: AllReduce | None
) -> Tensor:
    """Return the change that leaves each marked token as long as it was, or no longer than that."""
    edited_TD = stream_TD + delta_TD
    squares_T2 = torch.stack([(stream_TD**2).sum(-1), (edited_TD**2).sum(-1)], dim=-1)
    if all_reduce is not None:
        squares_T2 = all_reduce(squares_T2)
    ratio_T = torch.sqrt(squares_T2[:, 0] / squares_T2[:, 1].clamp_min(1e-30))
    ratio_T = torch.where(restored_T == NOT_LONGER, ratio_T.clamp_max(1.0), ratio_T)
    kept_TD = edited_TD * ratio_T.unsqueeze(-1) - stream_TD
    return torch.where(restored_T.unsqueeze(-1) > 0, kept_TD, delta_TD)


register_device_table(
    DeviceKind(
        name=NORM,
        tables=NormTables,
        shapes=lambda *_: {"norms_S": ()},
        is_held=flagged("restores_norm"),
    )
)
