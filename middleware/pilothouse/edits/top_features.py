"""Which features of an SAE a text turns on: the strongest of each token and of all of them.

Strength is a code's size, for codes may be negative; a feature's code over several tokens is that
of the token where it is strongest. Of equals the earlier token and the lower number come first.

Shape suffixes: T tokens, M features, K features kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class TopFeature(NamedTuple):
    """A feature that is on: its code where it is strongest, the token there, how many it is on."""

    feature: int
    code: float
    token: int
    num_tokens: int


def top_features(codes_TM: Floats, count: int) -> list[TopFeature]:
    """The strongest features of codes [T, M], at most `count`, none of those that are never on."""
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
