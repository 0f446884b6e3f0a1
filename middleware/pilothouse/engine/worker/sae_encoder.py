"""SAEs that are resident at a tap, because their features are chosen by all others.

Each token is encoded once; rows then read the codes of single features. Nothing here hangs on the
batch: a token's codes are its own.

Shape suffixes: T tokens, D width of the tap on this rank, M features, R rows, Q columns of a
square, C columns of a cube.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.artifacts.saes.autoencoder import Form, Pursuit
from pilothouse.edits.statistic import Statistic
from pilothouse.engine.worker.token_stats import TokenStats

AllReduce = Callable[[Tensor], Tensor]


class SaeTraits(NamedTuple):
    """What is known of a resident SAE without its weights; the graph is traced for it."""

    sae: str
    """Its digest."""
    form: Form
    num_features: int
    statistic: Statistic = Statistic.NONE
    is_without_mean: bool = False
    input_scale: float = 1.0
    subtracts_decoder_bias: bool = False
    codes_hold_length: bool = False
    k: int = 0
    pursuit: Pursuit = Pursuit()

    @property
    def is_measured(self) -> bool:
        """Whether it takes a number of the token."""
        return self.is_without_mean or self.statistic != Statistic.NONE


class SaeTables(NamedTuple):
    """Its weights, float32; what its form does not need is None."""

    facts: SaeTraits
    decoder_bias_D: Tensor
    encoder_DM: Tensor | None = None
    encoder_bias_M: Tensor | None = None
    weight_M: Tensor | None = None
    """What z is multiplied by before features are compared: lengths of the decoder's rows."""
    threshold_M: Tensor | None = None
    decoder_MD: Tensor | None = None
    first_MQ: Tensor | None = None
    second_MQ: Tensor | None = None
    square_DQ: Tensor | None = None
    third_MC: Tensor | None = None
    cube_DC: Tensor | None = None


class Encoded(NamedTuple):
    """What rows read of one SAE: codes of their features, and all codes where they are needed."""

    codes_TR: Tensor
    all_TM: Tensor | None


def encoded(
    stream_TD: Tensor,
    feature_TR: Tensor,
    tables: SaeTables,
    measured: TokenStats | None,
    all_reduce: AllReduce | None,
) -> Encoded:
    """Return each token's codes of the features that its rows name.

    Args:
        all_reduce: sums over the ranks that share the width; None where there is one.
        measured: each token's statistics; None where nothing takes any.
        stream_TD: the stream at the tap.
        tables: the SAE's weights.
        feature_TR: numbers in [0, M), whatever they are where a row reads none.
    """
    facts = tables.facts
    inside_TD = _normalised(stream_TD, facts, measured)
    around_TD = inside_TD - tables.decoder_bias_D
    x_TD = around_TD if facts.subtracts_decoder_bias else inside_TD
    if facts.form == "pursuit":
        return Encoded(_pursued(x_TD, feature_TR, tables, all_reduce), None)
    assert tables.encoder_DM is not None
    assert tables.encoder_bias_M is not None
    z_TM = _whole(x_TD @ tables.encoder_DM, all_reduce) + tables.encoder_bias_M
    weighed_TM = z_TM if tables.weight_M is None else z_TM * tables.weight_M
    kept_TM = weighed_TM if facts.codes_hold_length else z_TM
    if tables.first_MQ is not None:
        all_TM = _all_codes(kept_TM, weighed_TM, tables)
        return Encoded(all_TM.gather(1, feature_TR), all_TM)
    kept_TR = kept_TM.gather(1, feature_TR)
    if facts.form == "abstopk":
        is_on_TR = among_largest(weighed_TM.abs(), feature_TR, facts.k)
        return Encoded(torch.where(is_on_TR, kept_TR, 0.0), None)
    if facts.form == "top_afa":
        length_T1 = torch.sqrt(_whole((around_TD**2).sum(-1, keepdim=True), all_reduce))
        is_on_TR = norm_matched(weighed_TM.clamp_min(0.0) ** 2, feature_TR, length_T1)
    else:
        is_on_TR = among_largest(weighed_TM, feature_TR, facts.k)
    return Encoded(torch.where(is_on_TR, kept_TR.clamp_min(0.0), 0.0), None)


def together(change_TR: Tensor, feature_TR: Tensor, all_TM: Tensor, tables: SaeTables) -> Tensor:
    """Return what a decoder that is not linear adds for codes changed by that much, [T, D].

    Args:
        all_TM: every code of each token.
        feature_TR: the feature that each row names.
        tables: the SAE's weights.
        change_TR: 0 where a row is none of this SAE's.
    """
    assert tables.first_MQ is not None
    assert tables.second_MQ is not None
    assert tables.square_DQ is not None
    first_TQ, first_then_TQ = _moved(change_TR, feature_TR, all_TM, tables.first_MQ)
    second_TQ, second_then_TQ = _moved(change_TR, feature_TR, all_TM, tables.second_MQ)
    square_TQ, square_then_TQ = first_TQ * second_TQ, first_then_TQ * second_then_TQ
    delta_TD = (square_then_TQ - square_TQ) @ tables.square_DQ.T
    if tables.third_MC is None or tables.cube_DC is None:
        return delta_TD
    third_TC, third_then_TC = _moved(change_TR, feature_TR, all_TM, tables.third_MC)
    count = third_TC.shape[1]
    cube_TC = square_then_TQ[:, :count] * third_then_TC - square_TQ[:, :count] * third_TC
    return delta_TD + cube_TC @ tables.cube_DC.T


def _moved(
    change_TR: Tensor, feature_TR: Tensor, all_TM: Tensor, part_MQ: Tensor
) -> tuple[Tensor, Tensor]:
    """Return codes times one factor of the polynomial, before and after the change."""
    before_TQ = all_TM @ part_MQ
    after_TQ = before_TQ
    for r in range(change_TR.shape[1]):
        after_TQ = after_TQ + change_TR[:, r : r + 1] * part_MQ[feature_TR[:, r]]
    return before_TQ, after_TQ


def _all_codes(kept_TM: Tensor, weighed_TM: Tensor, tables: SaeTables) -> Tensor:
    kept_TM = kept_TM.clamp_min(0.0)
    if tables.facts.form == "relu":
        return kept_TM
    if tables.threshold_M is not None:
        return torch.where(weighed_TM > tables.threshold_M, kept_TM, 0.0)
    return torch.where(largest(weighed_TM, tables.facts.k), kept_TM, 0.0)


def _pursued(
    x_TD: Tensor, feature_TR: Tensor, tables: SaeTables, all_reduce: AllReduce | None
) -> Tensor:
    facts, rule = tables.facts, tables.facts.pursuit
    assert tables.decoder_MD is not None
    left_TD = x_TD
    codes_TR = torch.zeros_like(feature_TR, dtype=x_TD.dtype)
    is_over_T1 = torch.zeros_like(x_TD[:, :1], dtype=torch.bool)
    taken_TK = torch.full((x_TD.shape[0], facts.k), -1, dtype=torch.int64, device=x_TD.device)
    column_K = torch.arange(facts.k, device=x_TD.device)
    for step in range(facts.k):
        along_TM = _whole(left_TD @ tables.decoder_MD.T, all_reduce)
        best_T1 = (along_TM.abs() if rule.is_signed else along_TM).argmax(-1, keepdim=True)
        step_T1 = along_TM.gather(1, best_T1)
        step_T1 = step_T1 if rule.is_signed else step_T1.clamp_min(0.0)
        step_T1 = torch.where(is_over_T1, 0.0, step_T1)
        codes_TR = codes_TR + torch.where(feature_TR == best_T1, step_T1, 0.0)
        left_TD = left_TD - step_T1 * tables.decoder_MD[best_T1[:, 0]]
        if rule.ends_on_repeat:
            is_repeat_T1 = (taken_TK == best_T1).any(-1, keepdim=True) | (step_T1 == 0.0)
            is_over_T1 = is_over_T1 | is_repeat_T1
            taken_TK = torch.where(column_K == step, best_T1, taken_TK)
        if rule.residual_threshold > 0.0:
            left_T1 = torch.sqrt(_whole((left_TD**2).sum(-1, keepdim=True), all_reduce))
            is_over_T1 = is_over_T1 | (left_T1 < rule.residual_threshold)
    return codes_TR


def _normalised(stream_TD: Tensor, facts: SaeTraits, measured: TokenStats | None) -> Tensor:
    if measured is None:
        return stream_TD * facts.input_scale if facts.input_scale != 1.0 else stream_TD
    inside_TD = stream_TD - measured.mean_T1 if facts.is_without_mean else stream_TD
    factor_T1, _ = measured.of(facts.statistic)
    return inside_TD * (facts.input_scale * factor_T1)


def _whole(part: Tensor, all_reduce: AllReduce | None) -> Tensor:
    return part if all_reduce is None else all_reduce(part)


FEW = 16
"""So many are cheaper counted, with a pass over all features for each, than sorted."""


def among_largest(order_TM: Tensor, feature_TR: Tensor, k: int) -> Tensor:
    """Tell whether each is among the k largest of its token."""
    if feature_TR.shape[1] > FEW:
        return largest(order_TM, k).gather(1, feature_TR)
    index_M = torch.arange(order_TM.shape[1], device=order_TM.device)
    counts = []
    for r in range(feature_TR.shape[1]):
        is_before_TM = _is_before(order_TM, feature_TR[:, r : r + 1], index_M)
        counts.append(is_before_TM.sum(-1))
    return torch.stack(counts, dim=-1) < k


def largest(order_TM: Tensor, k: int) -> Tensor:
    """Return the k largest of each token, as a mask."""
    least_T1 = order_TM.topk(k, dim=1).values[:, -1:]
    is_over_TM, is_least_TM = order_TM > least_T1, order_TM == least_T1
    left_T1 = k - is_over_TM.sum(-1, keepdim=True)
    return is_over_TM | (is_least_TM & (is_least_TM.cumsum(-1) <= left_T1))


def norm_matched(energy_TM: Tensor, feature_TR: Tensor, length_T1: Tensor) -> Tensor:
    """Tell whether each is among the largest whose root of the sum is nearest to a length.

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
