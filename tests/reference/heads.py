"""Oracle of the heads: whole sequences in float64, straight from the definitions.

Shapes: L layers, T tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pilothouse.head import Head

Floats = np.ndarray


def head_logit(head: Head, arrays: Mapping[str, Floats], states_LTD: Floats) -> float:
    """What a head makes of a whole run, without the probe's bias; NaN of an empty one."""
    wide = {name: each.astype(np.float64) for name, each in arrays.items()}
    states_LTD = np.asarray(states_LTD, np.float64)
    if head.normaliser == "layer_norm":
        states_LTD = states_LTD - states_LTD.mean(axis=2, keepdims=True)
        states_LTD = states_LTD / states_LTD.std(axis=2, keepdims=True)
    elif head.normaliser == "rms":
        states_LTD = states_LTD / np.sqrt((states_LTD**2).mean(axis=2, keepdims=True))
    if head.hidden_width is not None:
        through_LTW = np.einsum("ltd,lwd->ltw", states_LTD, wide["hidden_weights"])
        states_LTD = np.maximum(through_LTW + wide["hidden_bias"][:, None], 0.0)
    if not states_LTD.shape[1]:
        return float("nan")
    return _LOGITS[head.kind](head, wide, states_LTD)


def _linear(_: Head, arrays: Mapping[str, Floats], states_LTD: Floats) -> float:
    """Of the last token."""
    return float(sum(w @ h for w, h in zip(arrays["weights"], states_LTD[:, -1], strict=True)))


def _attention(_: Head, arrays: Mapping[str, Floats], states_LTD: Floats) -> float:
    asked_TH = np.einsum("ltd,lhd->th", states_LTD, arrays["queries"])
    seen_TH = np.einsum("ltd,lhd->th", states_LTD, arrays["values"])
    total = 0.0
    for asked_T, seen_T in zip(asked_TH.T, seen_TH.T, strict=True):
        share_T = np.exp(asked_T - asked_T.max())
        total += float(share_T @ seen_T / share_T.sum())
    return total


def _efficient_probing(head: Head, arrays: Mapping[str, Floats], states_LTD: Floats) -> float:
    """Unfolded: pooled values of every query, end to end, through the classifier."""
    width = arrays["queries"].shape[2]
    pooled = []
    for h in range(head.heads or 0):
        asked_T = np.einsum("ltd,ld->t", states_LTD, arrays["queries"][:, h]) / np.sqrt(width)
        share_T = np.exp(asked_T - asked_T.max())
        share_T /= share_T.sum()
        values_TV = np.einsum("ltd,lvd->tv", states_LTD, arrays["value_maps"][:, h])
        pooled.append(share_T @ values_TV)
    return float(np.concatenate(pooled) @ arrays["classifier"].reshape(-1))


def _multimax(_: Head, arrays: Mapping[str, Floats], states_LTD: Floats) -> float:
    return float(np.einsum("ltd,lhd->th", states_LTD, arrays["values"]).max(axis=0).sum())


def _rolling_attention(head: Head, arrays: Mapping[str, Floats], states_LTD: Floats) -> float:
    asked_TH = np.einsum("ltd,lhd->th", states_LTD, arrays["queries"])
    seen_TH = np.einsum("ltd,lhd->th", states_LTD, arrays["values"])
    means_TH = np.zeros_like(seen_TH)
    for t in range(len(seen_TH)):
        window = slice(max(0, t + 1 - (head.window or 0)), t + 1)
        share_wH = np.exp(asked_TH[window] - asked_TH[window].max(axis=0))
        means_TH[t] = (share_wH * seen_TH[window]).sum(axis=0) / share_wH.sum(axis=0)
    if head.order == "max_then_sum":
        return float(means_TH.max(axis=0).sum())
    return float(means_TH.sum(axis=1).max())


def _mahalanobis(_: Head, arrays: Mapping[str, Floats], states_LTD: Floats) -> float:
    """Of the last token, by the whole matrices."""
    total = 0.0
    for layer, state_D in enumerate(states_LTD[:, -1]):
        factors_RD = arrays["factors"][layer]
        matrix_DD = factors_RD.T @ np.diag(arrays["weights"][layer]) @ factors_RD
        away_D = state_D - arrays["mean"][layer]
        total += float(away_D @ matrix_DD @ away_D)
    return total


_LOGITS = {
    "linear": _linear,
    "mlp": _linear,
    "mahalanobis": _mahalanobis,
    "attention": _attention,
    "efficient_probing": _efficient_probing,
    "multimax": _multimax,
    "rolling_attention": _rolling_attention,
}
