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


_LOGITS = {"linear": _linear, "attention": _attention}
