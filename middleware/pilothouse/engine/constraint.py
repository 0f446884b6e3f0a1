"""Which tokens of an answer a client chose, and not the model.

A grammar, a list of allowed tokens, biases or barred words can leave the model next to no choice.
One possible token is not the border: alternatives in spelling, or several ways to cut one text into
tokens, leave more than one and decide nothing. A position counts as forced where at most one token
in eight is left.

Shape suffixes: N rows of a mask, W words of 32 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

NARROW_SHARE = 1 / 8
DECIDING_BIAS = 20.0
"""In logits: what is that far behind is not sampled. A model's own best two are seldom so far
apart."""


def narrow_rows(bitmask_NW: NDArray[np.int32], vocab_size: int) -> list[bool]:
    """Which rows of a grammar's mask leave next to no choice."""
    left_N = np.bitwise_count(bitmask_NW.view(np.uint32)).sum(axis=1, dtype=np.int64)
    narrow: list[bool] = (left_N <= NARROW_SHARE * vocab_size).tolist()
    return narrow


def always_narrow(
    vocab_size: int,
    *,
    allowed_token_ids: Sequence[int] | None,
    logit_bias: Mapping[int, float] | None,
    num_barred: int,
) -> bool:
    """Whether a request's parameters leave next to no choice at any position.

    Args:
        num_barred: words that may not come, each by one way to write it in tokens.
    """
    left = min(
        vocab_size if allowed_token_ids is None else len(set(allowed_token_ids)),
        _left_by_bias(vocab_size, logit_bias or {}),
        vocab_size - num_barred,
    )
    return left <= NARROW_SHARE * vocab_size


def _left_by_bias(vocab_size: int, logit_bias: Mapping[int, float]) -> int:
    biases = np.fromiter(logit_bias.values(), np.float64, len(logit_bias))
    unlisted = vocab_size - len(biases)
    top = max(biases.max(initial=-np.inf), 0.0 if unlisted > 0 else -np.inf)
    left = int((biases > top - DECIDING_BIAS).sum())
    return left + (unlisted if top < DECIDING_BIAS else 0)
