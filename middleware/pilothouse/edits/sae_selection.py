"""Which codes of a token are on, where that hangs on all of them. Pure maths, float64.

topk and abstopk as Gao et al. 2024 and AbsTopK (arXiv 2510.00404); norm matching as top-AFA (Lee et
al. 2025); matching pursuit as Mallat and Zhang 1993, with the ends that SAELens gives it.

Shape suffixes: T tokens, M features, D width of the site.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.saes.autoencoder import Pursuit

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def largest(order_TM: Floats, k: int) -> Flags:
    """The k largest of each token; of equals the first wins."""
    return _places(order_TM) < k


def norm_matched(energy_TM: Floats, length_T1: Floats) -> Flags:
    """The largest, as many as bring the root of their sum nearest to a length, one at least.

    Args:
        energy_TM: squares of what the codes write, each by itself.
    """
    sorted_TM = -np.sort(-energy_TM, axis=1)
    gap_TM = np.abs(np.sqrt(np.cumsum(sorted_TM, axis=1)) - length_T1)
    is_on_TM: Flags = _places(energy_TM) <= gap_TM.argmin(axis=1)[:, None]
    return is_on_TM


def pursued(x_TD: Floats, rows_MD: Floats, steps: int, rule: Pursuit) -> Floats:
    """Codes [T, M] of a matching pursuit of x over the decoder's rows."""
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
    """Where each stands among its token's, from the largest down."""
    sorted_TM = np.argsort(-order_TM, axis=1, kind="stable")
    places_TM = np.empty_like(sorted_TM)
    np.put_along_axis(places_TM, sorted_TM, np.arange(order_TM.shape[1])[None, :], axis=1)
    return places_TM
