"""Texts of a test that say nearly what a fitted one says: sets borrow from each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pilothouse.demo.texts.text import Text, alike

NEAR = 0.8
"""Cosine of TF-IDF of words and word pairs."""


def without_overlap(tested: Sequence[Text], fitted: Sequence[Text]) -> list[Text]:
    """The tested texts that no fitted text comes near."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    known = words.fit_transform([_said(each) for each in (*fitted, *tested)])
    nearest = (known[len(fitted) :] @ known[: len(fitted)].T).max(axis=1).toarray().ravel()
    return [each for each, cosine in zip(tested, np.asarray(nearest), strict=True) if cosine < NEAR]


def _said(text: Text) -> str:
    return alike(f"{text.question or ''} {text.text}")
