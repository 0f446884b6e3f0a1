"""Fitting a read row: ridge logistic regression on standardised activations.

The standardisation is folded into row and bias, so that what is served is one product. What a
sequence shows the regression is its `training`:
  mean    the mean of its tokens
  last    its last token
  tokens  every token under the sequence's label, each sequence with weight 1
  max     its highest-scoring token, found anew with each row, starting from the row of `mean`;
          a negative keeps every token that ever scored highest, so that it cannot hide one

Shapes: N sequences, T tokens end to end, L layers of the row, F = L * D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ConfigError
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.score import Row, token_logits

Training = Literal["mean", "last", "tokens", "max"]

MAX_ROUNDS = 5
MAX_TRAINING_TOKENS = 60_000
MAX_ITERATIONS = 2000

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


def fit_row(
    features_NF: Floats32,
    labels_N: Bools,
    layers: tuple[int, ...],
    ridge_c: float,
    weights_N: Floats | None = None,
) -> Row:
    """The row that separates the labels; `ridge_c` is the inverse strength of the ridge.

    Features that do not vary get weight 0.

    Raises:
        ConfigError: a class is missing, features are not finite, or the fit did not converge.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if labels_N.all() or not labels_N.any() or not np.isfinite(features_NF).all():
        raise ConfigError(
            f"fit: got {int(labels_N.sum())} positives of {labels_N.size} and "
            f"{int((~np.isfinite(features_NF)).sum())} features that are not finite; want both "
            "classes and finite features"
        )
    mean_F = features_NF.mean(axis=0, dtype=np.float64)
    std_F = features_NF.std(axis=0, dtype=np.float64)
    scale_F = np.where(std_F > 1e-9 * (1.0 + np.abs(mean_F)), std_F, np.inf)
    model = LogisticRegression(C=ridge_c, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit((features_NF - mean_F) / scale_F, labels_N, sample_weight=weights_N)
        except ConvergenceWarning as error:
            raise ConfigError(
                f"fit: layers {list(layers)}, C {ridge_c}: no convergence in {MAX_ITERATIONS} "
                "iterations; take a smaller C"
            ) from error
    weights_F: Floats = model.coef_[0] / scale_F
    return Row(
        layers=layers,
        weights_LD=weights_F.reshape(len(layers), -1).astype(np.float32),
        bias=float(model.intercept_[0] - weights_F @ mean_F),
    )


def candidate_rows(
    dataset: Dataset,
    layers: tuple[int, ...],
    training: Training,
    ridge_cs: Sequence[float],
    seed: int,
) -> Iterator[tuple[float, Row]]:
    """The rows that a training gives for each C: one, or one for each round of `max`.

    The data set must be cut to the scope already, so that no sequence is empty.
    """
    labels_N, weights_N = dataset.labels_N, None
    if training == "tokens":
        tokens, weights_N = _weighted_tokens(dataset, seed)
        labels_N = labels_N[_sequence_T(dataset)[tokens]]
        features_NF = _features_NF(dataset, layers, tokens)
    elif training == "last":
        features_NF = _features_NF(dataset, layers, dataset.starts[1:] - 1)
    else:
        features_NF = _means_NF(dataset, layers)
    for ridge_c in ridge_cs:
        row = fit_row(features_NF, labels_N, layers, ridge_c, weights_N)
        rows = _max_rows(dataset, row, ridge_c) if training == "max" else (row,)
        yield from ((ridge_c, each) for each in rows)


def _max_rows(dataset: Dataset, row: Row, ridge_c: float) -> Iterator[Row]:
    """The rounds after the row of `mean`."""
    negatives: set[int] = set()
    seen: set[frozenset[int]] = set()
    sequence_T = _sequence_T(dataset)
    for _ in range(MAX_ROUNDS):
        top_N = _top_tokens(token_logits(row, dataset), dataset.starts)
        negatives.update(top_N[~dataset.labels_N].tolist())
        chosen = frozenset(top_N[dataset.labels_N].tolist()) | negatives
        if chosen in seen:
            return
        seen.add(chosen)
        tokens = np.array(sorted(chosen))
        sequence = sequence_T[tokens]
        weights = 1.0 / np.bincount(sequence, minlength=len(dataset))[sequence]
        features = _features_NF(dataset, row.layers, tokens)
        row = fit_row(features, dataset.labels_N[sequence], row.layers, ridge_c, weights)
        yield row


def _sequence_T(dataset: Dataset) -> Indices:
    return np.repeat(np.arange(len(dataset)), dataset.lengths_N)


def _features_NF(dataset: Dataset, layers: tuple[int, ...], tokens: Indices) -> Floats32:
    return np.concatenate([dataset.hidden_TD(layer)[tokens] for layer in layers], axis=1)


def _means_NF(dataset: Dataset, layers: tuple[int, ...]) -> Floats32:
    first = dataset.starts[:-1]
    sums = [
        np.add.reduceat(dataset.hidden_TD(layer), first, axis=0, dtype=np.float64)
        for layer in layers
    ]
    means_NF: Floats32 = np.concatenate(sums, axis=1) / dataset.lengths_N[:, None]
    return means_NF.astype(np.float32)


def _top_tokens(logits_T: Floats, starts: Indices) -> Indices:
    """The first of the highest tokens of each sequence."""
    highest_N = np.maximum.reduceat(logits_T, starts[:-1])
    is_top_T = logits_T == np.repeat(highest_N, np.diff(starts))
    tokens = np.flatnonzero(is_top_T)
    sequence = np.searchsorted(starts, tokens, side="right") - 1
    _, first = np.unique(sequence, return_index=True)
    return tokens[first]


def _weighted_tokens(dataset: Dataset, seed: int) -> tuple[Indices, Floats]:
    """All tokens, or a seeded sample of them, with weights that sum to 1 over a sequence."""
    total = int(dataset.starts[-1])
    weights_T = np.repeat(1.0 / dataset.lengths_N, dataset.lengths_N)
    if total <= MAX_TRAINING_TOKENS:
        return np.arange(total), weights_T
    sample = np.random.default_rng(seed).choice(total, MAX_TRAINING_TOKENS, replace=False)
    tokens = np.sort(sample).astype(np.int64)
    return tokens, weights_T[tokens] * (total / MAX_TRAINING_TOKENS)
