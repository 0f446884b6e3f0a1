"""An SAE's codes of a stream, and the stream of codes: the whole of it, in float64.

For features shown and chosen offline, and for what is checked against other libraries; edits in the
forward pass are rows (`edit.sae`). The form of the activation is told in `model.sae.autoencoder`.

Shape suffixes: T tokens, D width of the site, M features, P features of a part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.model.sae.autoencoder import ALL_AT_ONCE, Sae

Floats = NDArray[np.float64]
PART = 1024
"""Features whose weights are widened at once."""
LAYER_NORM_EPSILON = 1e-5


class Normaliser(NamedTuple):
    """What one stream's tokens are normalised with: (h - mean) * factor, back: x / back + mean."""

    mean_T1: Floats
    factor_T1: Floats
    back_T1: Floats


def normaliser(sae: Sae, hidden_TD: Floats) -> Normaliser:
    """The numbers of each token. The mean of a centred SAE is no part of what it explains."""
    mean_T1 = np.zeros((len(hidden_TD), 1))
    if sae.is_centred or sae.normalisation == "layer_norm":
        mean_T1 = hidden_TD.mean(axis=1, keepdims=True)
    factor_T1 = back_T1 = np.full_like(mean_T1, sae.input_scale)
    centred_TD = hidden_TD - mean_T1
    if sae.normalisation == "layer_norm":
        std_T1 = centred_TD.std(axis=1, ddof=1, keepdims=True)
        factor_T1, back_T1 = factor_T1 / (std_T1 + LAYER_NORM_EPSILON), back_T1 / std_T1
    elif sae.normalisation == "constant_norm":
        length_T1 = np.linalg.norm(centred_TD, axis=1, keepdims=True)
        factor_T1 = back_T1 = factor_T1 * np.sqrt(sae.width) / length_T1
    return Normaliser(mean_T1, factor_T1, back_T1)


def encode(sae: Sae, hidden_TD: Floats) -> Floats:
    """Codes [T, M] of a stream [T, D], float64."""
    norm = normaliser(sae, hidden_TD)
    x_TD = (hidden_TD - norm.mean_T1) * norm.factor_T1
    if sae.subtracts_decoder_bias:
        x_TD = x_TD - sae.decoder_bias_D
    parts = [
        x_TD @ sae.encoder_DM.columns(slice(start, start + PART))
        for start in range(0, sae.num_features, PART)
    ]
    return _activated(sae, np.concatenate(parts, axis=1))


def decode(sae: Sae, codes_TM: Floats, hidden_TD: Floats) -> Floats:
    """The stream [T, D] that codes stand for, normalised back as `hidden_TD` was, float64."""
    norm = normaliser(sae, hidden_TD)
    return (written(sae, codes_TM) + sae.decoder_bias_D) / norm.back_T1 + norm.mean_T1


def edited(sae: Sae, hidden_TD: Floats, codes_TM: Floats, new_codes_TM: Floats) -> Floats:
    """The stream with other codes in it; what the SAE does not explain stays."""
    change_TD = written(sae, new_codes_TM - codes_TM)
    return hidden_TD + change_TD / normaliser(sae, hidden_TD).back_T1


def written(sae: Sae, codes_TM: Floats) -> Floats:
    """Codes times the decoder, [T, D], before the normalisation back."""
    total_TD = np.zeros((len(codes_TM), sae.width))
    for start in range(0, sae.num_features, PART):
        part = slice(start, start + PART)
        rows_PD = sae.decoder_MD.rows(part)
        if sae.decoder_norms == "scale":
            rows_PD = rows_PD / np.linalg.norm(rows_PD, axis=1, keepdims=True)
        total_TD += codes_TM[:, part] @ rows_PD
    return total_TD


def _activated(sae: Sae, raw_TM: Floats) -> Floats:
    z_TM = raw_TM + sae.encoder_bias_M
    if sae.form == "relu":
        return np.maximum(z_TM, 0.0)
    if sae.form == "gated":
        assert sae.magnitude_log_M is not None
        assert sae.magnitude_bias_M is not None
        whole_TM = np.exp(sae.magnitude_log_M) * raw_TM + sae.magnitude_bias_M
        return np.where(z_TM > 0.0, np.maximum(whole_TM, 0.0), 0.0)
    weighed_TM = z_TM
    if sae.decoder_norms != "ignored":
        weighed_TM = z_TM * sae.decoder_MD.row_lengths()
    kept_TM = weighed_TM if sae.decoder_norms == "scale" else z_TM
    if sae.form == "jumprelu":
        assert sae.threshold_M is not None
        return np.where(weighed_TM > sae.threshold_M, np.maximum(kept_TM, 0.0), 0.0)
    assert sae.form in ALL_AT_ONCE
    order_TM = np.abs(weighed_TM) if sae.form == "abstopk" else weighed_TM
    # Stable, so that of equals the first wins.
    chosen_TK = np.argsort(-order_TM, axis=1, kind="stable")[:, : sae.k]
    is_kept_TM = np.zeros(z_TM.shape, bool)
    np.put_along_axis(is_kept_TM, chosen_TK, True, axis=1)
    signed_TM = kept_TM if sae.form == "abstopk" else np.maximum(kept_TM, 0.0)
    return np.where(is_kept_TM, signed_TM, 0.0)
