"""Figures of merit with their uncertainty.

Shapes: N sequences. Scores may be on any scale; higher means more positive. Intervals are
two-sided 95%.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pilothouse.artifacts.manifest import Interval
from pilothouse.errors import ConfigError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Metric = Callable[[Floats, Bools], float]

NORMAL_95 = 1.959963984540054
RESAMPLES = 1000
CALIBRATION_BINS = 10


def auroc(scores_N: ArrayLike, labels_N: ArrayLike) -> float:
    """The chance that a positive scores above a negative, ties counting half.

    Raises:
        ConfigError: a class is missing or a score is NaN.
    """
    positives, negatives = _classes(scores_N, labels_N)
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left").sum()
    upto = np.searchsorted(ordered, positives, side="right").sum()
    return float(below + upto) / (2.0 * positives.size * negatives.size)


def partial_auroc(scores_N: ArrayLike, labels_N: ArrayLike, max_fpr: float = 0.05) -> float:
    """Area under the curve up to `max_fpr`, scaled so that chance is 0.5 and perfect is 1.

    Source: McClish 1989. Raises as `auroc`.
    """
    from sklearn.metrics import roc_auc_score

    _classes(scores_N, labels_N)
    return float(roc_auc_score(np.asarray(labels_N, bool), scores_N, max_fpr=max_fpr))


def tpr_at_fpr(scores_N: ArrayLike, labels_N: ArrayLike, target_fpr: float = 0.01) -> float:
    """Share of positives above the lowest cut that at most `target_fpr` of the negatives pass.

    No interpolation between points of the curve. Raises as `auroc`.
    """
    positives, negatives = _classes(scores_N, labels_N)
    # 0.29 * 100 is 28.999...96: the share that was meant must not lose one to rounding.
    passed = min(math.floor(target_fpr * negatives.size * (1 + 1e-12)), negatives.size - 1)
    cut = np.partition(negatives, negatives.size - 1 - passed)[negatives.size - 1 - passed]
    return float((positives > cut).mean())


def auprc(scores_N: ArrayLike, labels_N: ArrayLike) -> float:
    """Area under precision over recall, as a sum of steps; chance is the share of positives.

    Raises as `auroc`.
    """
    from sklearn.metrics import average_precision_score

    _classes(scores_N, labels_N)
    return float(average_precision_score(np.asarray(labels_N, bool), scores_N))


def calibration_error(
    values_N: ArrayLike, labels_N: ArrayLike, bins: int = CALIBRATION_BINS
) -> float:
    """How far values lie from the shares of positives: the mean over bins of equal width.

    Source: Naeini, Cooper and Hauskrecht 2015 (expected calibration error).

    Raises:
        ConfigError: a class is missing, or a value is NaN or outside [0, 1].
    """
    values, labels = np.asarray(values_N, np.float64), np.asarray(labels_N).astype(bool)
    _classes(values, labels)
    if values.min() < 0 or values.max() > 1:
        raise ConfigError(
            f"calibration: got values from {values.min()} to {values.max()}, want them in [0, 1]"
        )
    bin_N = np.minimum((values * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_N, values - labels, bins)
    return float(np.abs(gaps).sum() / values.size)


def wilson(successes: int, count: int) -> Interval:
    """A share with its Wilson score interval.

    Raises:
        ConfigError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= count or count == 0:
        raise ConfigError(f"share: got {successes} of {count}, want 0 <= successes <= count > 0")
    share, z2 = successes / count, NORMAL_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    half *= NORMAL_95
    return Interval(
        estimate=share,
        low=max(0.0, min(share, centre - half)),
        high=min(1.0, max(share, centre + half)),
    )


def bootstrap(
    metric: Metric,
    scores_N: ArrayLike,
    labels_N: ArrayLike,
    groups_N: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """A metric with the percentile interval over resamples of whole groups.

    A resample without one of the classes is drawn again. Raises as the metric does.
    """
    draws = bootstrap_draws(metric, scores_N, labels_N, groups_N, seed=seed, resamples=resamples)
    estimate = metric(np.asarray(scores_N, np.float64), np.asarray(labels_N, bool))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(
        estimate=estimate, low=float(min(low, estimate)), high=float(max(high, estimate))
    )


def bootstrap_draws(
    metric: Metric,
    scores_N: ArrayLike,
    labels_N: ArrayLike,
    groups_N: ArrayLike,
    *,
    seed: int,
    resamples: int,
) -> Floats:
    """The metric of each resample of whole groups."""
    scores, labels = np.asarray(scores_N, np.float64), np.asarray(labels_N).astype(bool)
    _classes(scores, labels)
    names, group_N = np.unique(np.asarray(groups_N), return_inverse=True)
    generator = np.random.default_rng(seed)
    draws: list[float] = []
    while len(draws) < resamples:
        drawn = generator.integers(0, len(names), len(names))
        times_N = np.bincount(drawn, minlength=len(names))[group_N]
        rows = np.repeat(np.arange(scores.size), times_N)
        if 0 < labels[rows].sum() < rows.size:
            draws.append(metric(scores[rows], labels[rows]))
    return np.array(draws)


def _classes(scores_N: ArrayLike, labels_N: ArrayLike) -> tuple[Floats, Floats]:
    scores, labels = np.asarray(scores_N, np.float64), np.asarray(labels_N).astype(bool)
    if scores.shape != labels.shape or np.isnan(scores).any():
        raise ConfigError(
            f"metric: got {scores.shape} scores, {int(np.isnan(scores).sum())} of them NaN, for "
            f"{labels.shape} labels; want one number for each label"
        )
    if labels.all() or not labels.any():
        raise ConfigError(
            f"metric: got {int(labels.sum())} positives and {int((~labels).sum())} negatives, "
            "want both classes"
        )
    return scores[labels], scores[~labels]
