"""An SAE's codes of a stream, and the stream of codes: the whole of it, in float64.

For features shown and chosen offline, and for what is checked against other libraries; edits in the
forward pass are rows (`edit.sae`). The form of the activation is told in `model.sae.autoencoder`.

Shape suffixes: T tokens, D width of the site, M features, P features of a part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.saes.autoencoder import Pursuit, Sae
from pilothouse.edits.statistic import Statistic, measured

Floats = NDArray[np.float64]
PART = 1024
"""Features whose weights are widened at once."""


class Normaliser(NamedTuple):
    """What one stream's tokens are normalised with: (h - mean) factor, back: x back + mean."""

    mean_T1: Floats
    factor_T1: Floats
    back_T1: Floats


def statistic_of(sae: Sae) -> Statistic:
    """Return what its normalisation takes of a token."""
    if sae.normalisation == "constant_norm":
        return Statistic.CENTRED_NORM if sae.is_centred else Statistic.CONSTANT_NORM
    return Statistic.LAYER_NORM if sae.normalisation == "layer_norm" else Statistic.NONE


def normaliser(sae: Sae, hidden_TD: Floats) -> Normaliser:
    """Measure each token. The mean of a centred SAE is no part of what it explains."""
    mean_T1 = np.zeros((len(hidden_TD), 1))
    if is_without_mean(sae):
        mean_T1 = hidden_TD.mean(axis=1, keepdims=True)
    measure = measured(statistic_of(sae), hidden_TD)
    return Normaliser(
        mean_T1, sae.input_scale * measure.factor_T1, measure.back_T1 / sae.input_scale
    )


def is_without_mean(sae: Sae) -> bool:
    """Tell whether the SAE sees a token less its mean over D."""
    return sae.is_centred or sae.normalisation == "layer_norm"


def encode(sae: Sae, hidden_TD: Floats) -> Floats:
    """Return codes [T, M] of a stream [T, D], float64."""
    norm = normaliser(sae, hidden_TD)
    inside_TD = (hidden_TD - norm.mean_T1) * norm.factor_T1
    x_TD = inside_TD - sae.decoder_bias_D if sae.subtracts_decoder_bias else inside_TD
    if sae.form == "pursuit":
        assert sae.k is not None
        return pursued(x_TD, sae.decoder_MD.whole(), sae.k, sae.pursuit)
    parts = [
        x_TD @ sae.encoder_DM.columns(slice(start, start + PART))
        for start in range(0, sae.num_features, PART)
    ]
    around_T1 = np.linalg.norm(inside_TD - sae.decoder_bias_D, axis=1, keepdims=True)
    return _activated(sae, np.concatenate(parts, axis=1), around_T1)


def decode(sae: Sae, codes_TM: Floats, hidden_TD: Floats) -> Floats:
    """Decode to the stream [T, D], normalised back as `hidden_TD` was, float64."""
    norm = normaliser(sae, hidden_TD)
    return (written(sae, codes_TM) + sae.decoder_bias_D) * norm.back_T1 + norm.mean_T1


def edited(sae: Sae, hidden_TD: Floats, codes_TM: Floats, new_codes_TM: Floats) -> Floats:
    """Return the stream with other codes in it; what the SAE does not explain stays."""
    change_TD = _linear(sae, new_codes_TM - codes_TM)
    if sae.polynomial is not None:
        change_TD = change_TD + together(sae, new_codes_TM) - together(sae, codes_TM)
    return hidden_TD + change_TD * normaliser(sae, hidden_TD).back_T1


def written(sae: Sae, codes_TM: Floats) -> Floats:
    """Return the decoder's output [T, D] less its bias, before it is normalised back."""
    return _linear(sae, codes_TM) + together(sae, codes_TM)


def together(sae: Sae, codes_TM: Floats) -> Floats:
    """Return what a decoder that is not linear adds for codes that are on together, [T, D]."""
    if sae.polynomial is None:
        return np.zeros((len(codes_TM), sae.width))
    first_TQ = codes_TM @ sae.polynomial.first_MQ
    square_TQ = first_TQ * (codes_TM @ sae.polynomial.second_MQ)
    third_TC = codes_TM @ sae.polynomial.third_MC
    cube_TC = square_TQ[:, : third_TC.shape[1]] * third_TC
    return square_TQ @ sae.polynomial.square_DQ.T + cube_TC @ sae.polynomial.cube_DC.T


def _linear(sae: Sae, codes_TM: Floats) -> Floats:
    total_TD = np.zeros((len(codes_TM), sae.width))
    for start in range(0, sae.num_features, PART):
        part = slice(start, start + PART)
        rows_PD = sae.decoder_MD.rows(part)
        if sae.decoder_norms == "scale":
            rows_PD = rows_PD / _lengths_P1(rows_PD)
        total_TD += codes_TM[:, part] @ rows_PD
    return total_TD


def _lengths_P1(rows_PD: Floats) -> Floats:
    """Of a row of zeros the code is 0: what it is divided by does not matter."""
    lengths_P1 = np.linalg.norm(rows_PD, axis=1, keepdims=True)
    return np.where(lengths_P1 == 0.0, 1.0, lengths_P1)


def _activated(sae: Sae, raw_TM: Floats, around_T1: Floats) -> Floats:
    z_TM = raw_TM + sae.encoder_bias_M
    if sae.form == "relu":
        return np.maximum(z_TM, 0.0)
    if sae.form == "gated":
        assert sae.magnitude_log_M is not None
        assert sae.magnitude_bias_M is not None
        whole_TM = np.exp(sae.magnitude_log_M) * raw_TM + sae.magnitude_bias_M
        return np.where(z_TM > 0.0, np.maximum(whole_TM, 0.0), 0.0)
    weighed_TM = z_TM
    if sae.decoder_norms != "ignored" or sae.form == "top_afa":
        weighed_TM = z_TM * sae.decoder_MD.row_lengths()
    kept_TM = weighed_TM if sae.decoder_norms == "scale" else z_TM
    if sae.form == "jumprelu":
        assert sae.threshold_M is not None
        return np.where(weighed_TM > sae.threshold_M, np.maximum(kept_TM, 0.0), 0.0)
    if sae.form == "top_afa":
        is_on_TM = norm_matched(np.maximum(weighed_TM, 0.0) ** 2, around_T1)
        return np.where(is_on_TM, np.maximum(kept_TM, 0.0), 0.0)
    assert sae.k is not None
    if sae.form == "abstopk":
        return np.where(largest(np.abs(weighed_TM), sae.k), kept_TM, 0.0)
    return np.where(largest(weighed_TM, sae.k), np.maximum(kept_TM, 0.0), 0.0)


class TopFeature(NamedTuple):
    """A feature that is on: its code where it is strongest, the token there, how many it is on."""

    feature: int
    code: float
    token: int
    num_tokens: int


def top_features(codes_TM: Floats, count: int) -> list[TopFeature]:
    """Return at most `count` of the strongest features of codes [T, M] that are ever on."""
    if not len(codes_TM):
        return []
    size_TM = np.abs(codes_TM)
    token_M = size_TM.argmax(axis=0)
    size_M = size_TM.max(axis=0)
    num_M = np.count_nonzero(codes_TM, axis=0)
    return [
        TopFeature(
            int(each), float(codes_TM[token_M[each], each]), int(token_M[each]), int(num_M[each])
        )
        for each in np.argsort(-size_M, kind="stable")[:count]
        if size_M[each] > 0
    ]


Flags = NDArray[np.bool_]


# Which codes of a token are on, where that depends on all of them. topk and abstopk as Gao et al.
# 2024 and AbsTopK (arXiv 2510.00404); norm matching as top-AFA (Lee et al. 2025); matching pursuit
# as Mallat and Zhang 1993, with the ends that SAELens gives it.


def largest(order_TM: Floats, k: int) -> Flags:
    """Return the k largest of each token; of equals the first wins."""
    return _places(order_TM) < k


def norm_matched(energy_TM: Floats, length_T1: Floats) -> Flags:
    """Return the largest, as many as bring the root of their sum nearest to a length, one at least.

    Args:
        length_T1: the length that each token should have.
        energy_TM: squares of what the codes write, each by itself.
    """
    sorted_TM = -np.sort(-energy_TM, axis=1)
    gap_TM = np.abs(np.sqrt(np.cumsum(sorted_TM, axis=1)) - length_T1)
    is_on_TM: Flags = _places(energy_TM) <= gap_TM.argmin(axis=1)[:, None]
    return is_on_TM


def pursued(x_TD: Floats, rows_MD: Floats, steps: int, rule: Pursuit) -> Floats:
    """Return codes [T, M] of a matching pursuit of x over the decoder's rows."""
    tokens = np.arange(len(x_TD))
    left_TD = x_TD.copy()
    codes_TM = np.zeros((len(x_TD), len(rows_MD)))
    is_over_T = np.zeros(len(x_TD), bool)
    for _ in range(steps):
        along_TM = left_TD @ rows_MD.T
        best_T = (np.abs(along_TM) if rule.is_signed else along_TM).argmax(axis=1)
        step_T = along_TM[tokens, best_T]
        step_T = np.where(is_over_T, 0.0, step_T if rule.is_signed else np.maximum(step_T, 0.0))
        was_off_T = codes_TM[tokens, best_T] == 0.0
        codes_TM[tokens, best_T] += step_T
        left_TD = left_TD - step_T[:, None] * rows_MD[best_T]
        if rule.ends_on_repeat:
            is_over_T |= ~was_off_T | (step_T == 0.0)
        is_over_T |= np.linalg.norm(left_TD, axis=1) < rule.residual_threshold
        if is_over_T.all():
            break
    return codes_TM


def _places(order_TM: Floats) -> NDArray[np.int64]:
    """Return where each stands among its token's, from the largest down."""
    sorted_TM = np.argsort(-order_TM, axis=1, kind="stable")
    places_TM = np.empty_like(sorted_TM)
    np.put_along_axis(places_TM, sorted_TM, np.arange(order_TM.shape[1])[None, :], axis=1)
    return places_TM
