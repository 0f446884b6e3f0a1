"""What a probe must beat: scorers that never see an activation.

Shapes: N sequences of the fitting data, M of the test data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.dataset import Dataset
from pilothouse.probes.metrics import auroc

Floats = NDArray[np.float64]
Scorer = Callable[[Dataset, Dataset, Dataset], Floats]

TFIDF_CS = (0.1, 1.0, 10.0, 100.0)
BEHIND = "\x1f"
"""Between a question and the answer that is judged, where a text has both."""


def tfidf_scores(train: Dataset, validation: Dataset, test: Dataset) -> Floats:
    """scores_M of a logistic regression on TF-IDF of word 1- and 2-grams of the text.

    Its C is chosen by AUROC on the validation data, as the probe's is.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    known = words.fit_transform(train.texts_N)
    models = [LogisticRegression(C=c, max_iter=2000).fit(known, train.labels_N) for c in TFIDF_CS]
    seen = words.transform(validation.texts_N)
    best = max(models, key=lambda each: auroc(each.decision_function(seen), validation.labels_N))
    scores_M: Floats = best.decision_function(words.transform(test.texts_N))
    return scores_M


def length_scores(train: Dataset, validation: Dataset, test: Dataset) -> Floats:
    """scores_M of a logistic regression on the number of scored tokens."""
    del validation
    return _one_feature(train.lengths_N, train, test.lengths_N)


def log_probability_scores(train: Dataset, validation: Dataset, test: Dataset) -> Floats:
    """scores_M of a logistic regression on the model's mean log-probability of its own answer."""
    del validation
    return _one_feature(train.mean_log_probabilities_N, train, test.mean_log_probabilities_N)


def baselines_for(*datasets: Dataset) -> Mapping[str, Scorer]:
    """The scorers that the data allow: log-probability only where every sequence has one."""
    scorers: dict[str, Scorer] = {"TF-IDF": tfidf_scores, "length": length_scores}
    if all(np.isfinite(each.mean_log_probabilities_N).all() for each in datasets):
        scorers["mean log-probability"] = log_probability_scores
    return scorers


def _one_feature(
    known_N: NDArray[np.int64] | Floats, train: Dataset, unseen_M: NDArray[np.int64] | Floats
) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(known_N[:, None], train.labels_N)
    scores_M: Floats = model.decision_function(unseen_M[:, None])
    return scores_M


def shape_features(texts_N: Iterable[str]) -> Floats:
    """features_N8 of how texts are written, whatever they say.

    Length in letters and words, final full stop, question mark and letter or digit, a capital at
    the start, the shares of capitals and of marks. Of a text with `BEHIND` in it what stands behind
    that counts.
    """
    return np.array([_shape(each.rpartition(BEHIND)[2]) for each in texts_N])


def _shape(text: str) -> list[float]:
    length = max(len(text), 1)
    return [
        math.log1p(len(text)),
        math.log1p(len(text.split())),
        float(text.endswith(".")),
        float(text.endswith("?")),
        float(text[-1:].isalnum()),
        float(text[:1].isupper()),
        sum(each.isupper() for each in text) / length,
        sum(not each.isalnum() and not each.isspace() for each in text) / length,
    ]
