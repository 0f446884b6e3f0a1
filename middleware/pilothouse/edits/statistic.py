"""What a row counts a token in: a number of the token itself, taken before the edit. Pure maths.

With m the token's mean over D, a row of the statistic reads factor <e, h> + bias, and what it
writes is multiplied by `back`:

layer_norm    factor 1 / (std + 1e-5), back std, with std the unbiased one of h - m
constant_norm factor sqrt(D) / |h|, back |h| / sqrt(D)
centred_norm  the same of h - m

The mean itself is no part of it: a row without one along e reads h as it reads h - m.

Shape suffixes: T tokens, D width of the site, N statistics.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LAYER_NORM_EPSILON = 1e-5
SHORTEST = 1e-30
"""A token without length counts as one of this."""


class Statistic(IntEnum):
    """Of which number; the engine's tables have these."""

    NONE = 0
    LAYER_NORM = 1
    CONSTANT_NORM = 2
    CENTRED_NORM = 3


class Measure(NamedTuple):
    """What a token's reads and writes are multiplied by."""

    factor_T1: Floats
    back_T1: Floats


def measured(statistic: Statistic, hidden_TD: Floats) -> Measure:
    """Return the numbers of each token, float64."""
    if statistic == Statistic.NONE:
        ones_T1 = np.ones((len(hidden_TD), 1))
        return Measure(ones_T1, ones_T1)
    width = hidden_TD.shape[1]
    if statistic != Statistic.CONSTANT_NORM:
        hidden_TD = hidden_TD - hidden_TD.mean(axis=1, keepdims=True)
    length_T1 = np.linalg.norm(hidden_TD, axis=1, keepdims=True)
    if statistic == Statistic.LAYER_NORM:
        std_T1 = length_T1 / np.sqrt(width - 1)
        return Measure(1.0 / (std_T1 + LAYER_NORM_EPSILON), std_T1)
    length_T1 = np.maximum(length_T1, SHORTEST)
    return Measure(np.sqrt(width) / length_T1, length_T1 / np.sqrt(width))
