"""Which features an SAE chooses of all: a few are counted, many are sorted, and both find the same.

Of equals the first is chosen, on every device. Nothing here hangs on the batch.

Shape suffixes: T tokens, M features, R features that are asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 16
"""So many are cheaper counted, with a pass over all features for each, than sorted."""


def among_largest(order_TM: Tensor, feature_TR: Tensor, k: int) -> Tensor:
    """Whether each is among the k largest of its token."""
    if feature_TR.shape[1] > FEW:
        return largest(order_TM, k).gather(1, feature_TR)
    index_M = torch.arange(order_TM.shape[1], device=order_TM.device)
    counts = []
    for r in range(feature_TR.shape[1]):
        is_before_TM = _is_before(order_TM, feature_TR[:, r : r + 1], index_M)
        counts.append(is_before_TM.sum(-1))
    return torch.stack(counts, dim=-1) < k


def largest(order_TM: Tensor, k: int) -> Tensor:
    """The k largest of each token, as a mask."""
    least_T1 = order_TM.topk(k, dim=1).values[:, -1:]
    is_over_TM, is_least_TM = order_TM > least_T1, order_TM == least_T1
    left_T1 = k - is_over_TM.sum(-1, keepdim=True)
    return is_over_TM | (is_least_TM & (is_least_TM.cumsum(-1) <= left_T1))


def norm_matched(energy_TM: Tensor, feature_TR: Tensor, length_T1: Tensor) -> Tensor:
    """Whether each is among the largest whose root of the sum is nearest to a length.

    The root grows from feature to feature, so that its gap to the length falls and then rises: a
    feature is in where it brings the root of those before it nearer.
    """
    if feature_TR.shape[1] > FEW:
        return _all_norm_matched(energy_TM, length_T1).gather(1, feature_TR)
    index_M = torch.arange(energy_TM.shape[1], device=energy_TM.device)
    flags = []
    for r in range(feature_TR.shape[1]):
        feature_T1 = feature_TR[:, r : r + 1]
        is_before_TM = _is_before(energy_TM, feature_T1, index_M)
        before_T1 = torch.where(is_before_TM, energy_TM, 0.0).sum(-1, keepdim=True)
        gap_T1 = (torch.sqrt(before_T1 + energy_TM.gather(1, feature_T1)) - length_T1).abs()
        is_nearer_T1 = gap_T1 < (torch.sqrt(before_T1) - length_T1).abs()
        flags.append(is_nearer_T1 | ~is_before_TM.any(-1, keepdim=True))
    return torch.cat(flags, dim=-1)


def _all_norm_matched(energy_TM: Tensor, length_T1: Tensor) -> Tensor:
    sorted_TM, feature_TM = energy_TM.sort(dim=-1, descending=True, stable=True)
    gap_TM = (torch.sqrt(sorted_TM.cumsum(-1)) - length_T1).abs()
    is_on_TM = gap_TM < torch.cat([length_T1, gap_TM[:, :-1]], dim=-1)
    first_T1 = torch.ones_like(is_on_TM[:, :1])
    is_on_TM = torch.cat([first_T1, is_on_TM[:, 1:]], dim=-1)
    return torch.zeros_like(is_on_TM).scatter(1, feature_TM, is_on_TM)


def _is_before(order_TM: Tensor, feature_T1: Tensor, index_M: Tensor) -> Tensor:
    own_T1 = order_TM.gather(1, feature_T1)
    return (order_TM > own_T1) | ((order_TM == own_T1) & (index_M < feature_T1))
