"""The statistics of `edit.statistic` on a device, each token's once per tap.

Shape suffixes: T tokens, D width of the tap on this rank, S slots, R rows, N statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.edits.statistic import LAYER_NORM_EPSILON, SHORTEST, Statistic

AllReduce = Callable[[Tensor], Tensor]


class TokenStats(NamedTuple):
    """What each token's reads and writes are multiplied by, in the order of `Statistic`."""

    mean_T1: Tensor
    factor_TN: Tensor
    back_TN: Tensor

    def of(self, statistic: Statistic) -> tuple[Tensor, Tensor]:
        """Factor and way back of one statistic, [T, 1] each."""
        one = slice(int(statistic), int(statistic) + 1)
        return self.factor_TN[:, one], self.back_TN[:, one]


def token_stats(stream_TD: Tensor, width: int, all_reduce: AllReduce | None) -> TokenStats:
    """Return every statistic of each token, float32.

    Args:
        stream_TD: the stream at the tap.
        width: elements of a token on all ranks together.
        all_reduce: sums over the ranks that share the width, where it is sharded.
    """
    mean_T1 = _whole(stream_TD.sum(-1, keepdim=True), all_reduce) / width
    squares_T2 = torch.cat(
        [
            ((stream_TD - mean_T1) ** 2).sum(-1, keepdim=True),
            (stream_TD**2).sum(-1, keepdim=True),
        ],
        dim=-1,
    )
    length_T2 = torch.sqrt(_whole(squares_T2, all_reduce))
    std_T1 = length_T2[:, :1] / (width - 1) ** 0.5
    length_T2 = length_T2.clamp_min(SHORTEST)
    root = width**0.5
    ones_T1 = torch.ones_like(mean_T1)
    factors: dict[Statistic, Tensor] = {
        Statistic.NONE: ones_T1,
        Statistic.LAYER_NORM: 1.0 / (std_T1 + LAYER_NORM_EPSILON),
        Statistic.CONSTANT_NORM: root / length_T2[:, 1:],
        Statistic.CENTRED_NORM: root / length_T2[:, :1],
    }
    backs: dict[Statistic, Tensor] = {
        Statistic.NONE: ones_T1,
        Statistic.LAYER_NORM: std_T1,
        Statistic.CONSTANT_NORM: length_T2[:, 1:] / root,
        Statistic.CENTRED_NORM: length_T2[:, :1] / root,
    }
    return TokenStats(
        mean_T1,
        torch.cat([factors[each] for each in Statistic], dim=-1),
        torch.cat([backs[each] for each in Statistic], dim=-1),
    )


def _whole(part: Tensor, all_reduce: AllReduce | None) -> Tensor:
    return part if all_reduce is None else all_reduce(part)
