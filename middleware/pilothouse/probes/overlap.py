"""Finds tested texts that nearly say what a fitted one says: sets borrow from each other.

Shapes: M tested texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR = 0.8
"""Cosine of TF-IDF of words and word pairs."""
PART = 1024
"""Tested texts that are compared at a time."""


def near_texts(tested: Sequence[str], fitted: Sequence[str]) -> NDArray[np.bool_]:
    """Return is_near_M: whether a fitted text comes near each tested one."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    try:
        known = words.fit_transform([*fitted, *tested])
    except ValueError:  # no text has a word
        return np.zeros(len(tested), bool)
    seen = known[: len(fitted)].T
    nearest = [
        (known[first : min(first + PART, known.shape[0])] @ seen).max(axis=1).toarray().ravel()
        for first in range(len(fitted), known.shape[0], PART)
    ]
    is_near_M: NDArray[np.bool_] = np.concatenate([*nearest, np.zeros(0)]) >= NEAR
    return is_near_M
