"""An SAE's codes of a stream, and the stream of codes: the whole of it, in float64.

For features shown and chosen offline, and for what is checked against other libraries; edits in the
forward pass are rows (`edit.sae`). The form of the activation is told in `model.sae.autoencoder`.

Shape suffixes: T tokens, D width of the site, M features, P features of a part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.sae_selection import largest, norm_matched, pursued
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
    """What its normalisation takes of a token."""
    if sae.normalisation == "constant_norm":
        return Statistic.CENTRED_NORM if sae.is_centred else Statistic.CONSTANT_NORM
    return Statistic.LAYER_NORM if sae.normalisation == "layer_norm" else Statistic.NONE


def normaliser(sae: Sae, hidden_TD: Floats) -> Normaliser:
    """The numbers of each token. The mean of a centred SAE is no part of what it explains."""
    mean_T1 = np.zeros((len(hidden_TD), 1))
    if is_without_mean(sae):
        mean_T1 = hidden_TD.mean(axis=1, keepdims=True)
    measure = measured(statistic_of(sae), hidden_TD)
    return Normaliser(
        mean_T1, sae.input_scale * measure.factor_T1, measure.back_T1 / sae.input_scale
    )


def is_without_mean(sae: Sae) -> bool:
    """Whether the SAE sees a token less its mean over D."""
    return sae.is_centred or sae.normalisation == "layer_norm"


def encode(sae: Sae, hidden_TD: Floats) -> Floats:
    """Codes [T, M] of a stream [T, D], float64."""
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
    """The stream [T, D] that codes stand for, normalised back as `hidden_TD` was, float64."""
    norm = normaliser(sae, hidden_TD)
    return (written(sae, codes_TM) + sae.decoder_bias_D) * norm.back_T1 + norm.mean_T1


def edited(sae: Sae, hidden_TD: Floats, codes_TM: Floats, new_codes_TM: Floats) -> Floats:
    """The stream with other codes in it; what the SAE does not explain stays."""
    change_TD = _linear(sae, new_codes_TM - codes_TM)
    if sae.polynomial is not None:
        change_TD = change_TD + together(sae, new_codes_TM) - together(sae, codes_TM)
    return hidden_TD + change_TD * normaliser(sae, hidden_TD).back_T1


def written(sae: Sae, codes_TM: Floats) -> Floats:
    """What the decoder makes of codes, [T, D], less its bias, before the normalisation back."""
    return _linear(sae, codes_TM) + together(sae, codes_TM)


def together(sae: Sae, codes_TM: Floats) -> Floats:
    """What a decoder that is not linear adds for codes that are on together, [T, D]."""
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
