"""What rows take of a token beside its products: statistics, and codes of resident SAEs.

A plan without either has neither tables nor operations for them.

Shape suffixes: T tokens, D width of the tap on this rank, R rows, M features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.engine.worker.sae_encoder import Encoded, SaeTables, encoded, together
from pilothouse.engine.worker.token_stats import TokenStats, token_stats

AllReduce = Callable[[Tensor], Tensor]


class Codes(NamedTuple):
    """One resident SAE at a token: its codes, each row's feature, whether the row reads it."""

    tables: SaeTables
    found: Encoded
    feature_TR: Tensor
    is_own_TR: Tensor


class RowInputs(NamedTuple):
    """Of all rows; None and empty where the plan has none."""

    measured: TokenStats | None
    factor_TR: Tensor | None
    back_TR: Tensor | None
    codes: tuple[Codes, ...]

    def factor(self, values_TR: Tensor) -> Tensor:
        """As rows count it."""
        return values_TR if self.factor_TR is None else values_TR * self.factor_TR

    def back(self, values_TR: Tensor) -> Tensor:
        """As the stream counts it."""
        return values_TR if self.back_TR is None else values_TR * self.back_TR

    def seen(self, row: int, by: int, written_T: Tensor) -> Tensor:
        """Return what one row writes, as another one reads it."""
        if self.factor_TR is None or self.back_TR is None:
            return written_T
        return self.factor_TR[:, by] * self.back_TR[:, row] * written_T

    def read(self, products_TR: Tensor, bias_TR: Tensor) -> Tensor:
        """Return what rows read: the stream in their statistic, or a code."""
        reads_TR = self.factor(products_TR) + bias_TR
        for _, found, _, is_own_TR in self.codes:
            reads_TR = torch.where(is_own_TR, found.codes_TR, reads_TR)
        return reads_TR

    def with_joint_codes(self, delta_TD: Tensor, written_TR: Tensor) -> Tensor:
        """Return what rows write, and what decoders that are not linear make of it."""
        for tables, found, feature_TR, is_own_TR in self.codes:
            if found.all_TM is None:
                continue
            change_TR = torch.where(is_own_TR, written_TR, 0.0)
            joint_TD = together(change_TR, feature_TR, found.all_TM, tables)
            if self.measured is not None:
                joint_TD = joint_TD * self.measured.of(tables.facts.statistic)[1]
            delta_TD = delta_TD + joint_TD / tables.facts.input_scale
        return delta_TD


def row_inputs_of(
    stream_TD: Tensor,
    statistic_TR: Tensor | None,
    number_TR: Tensor | None,
    latents: Sequence[SaeTables],
    width: int,
    all_reduce: AllReduce | None,
) -> RowInputs:
    """Return each token's.

    Args:
        all_reduce: sums over the ranks that share the width; None where there is one.
        latents: the SAEs at the tap.
        stream_TD: the stream at the tap.
        statistic_TR: what each token's rows count it in, int64.
        number_TR: which code each reads, counted on from 1 through `latents`, or 0; int64.
        width: elements of a token on all ranks together.
    """
    measured, factor_TR, back_TR = None, None, None
    if statistic_TR is not None or any(each.facts.is_measured for each in latents):
        measured = token_stats(stream_TD, width, all_reduce)
    if statistic_TR is not None and measured is not None:
        factor_TR = measured.factor_TN.gather(1, statistic_TR)
        back_TR = measured.back_TN.gather(1, statistic_TR)
    codes: list[Codes] = []
    first = 1
    for each in latents:
        assert number_TR is not None
        count = each.facts.num_features
        feature_TR = number_TR - first
        is_own_TR = (feature_TR >= 0) & (feature_TR < count)
        feature_TR = feature_TR.clamp(0, count - 1)
        found = encoded(stream_TD, feature_TR, each, measured, all_reduce)
        codes.append(Codes(each, found, feature_TR, is_own_TR))
        first += count
    return RowInputs(measured, factor_TR, back_TR, tuple(codes))
