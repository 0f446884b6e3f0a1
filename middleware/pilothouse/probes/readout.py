"""Calibrating a readout, and measuring it on data it never saw.

Shapes: N sequences, M test sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import Interval, Readout, ReadoutEvaluation, Threshold
from pilothouse.errors import ConfigError
from pilothouse.probes.calibration import Platt, apply, fit_platt
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.metrics import auroc, bootstrap, tpr_at_fpr, wilson
from pilothouse.probes.recipe import ReadoutRecipe, Recipe
from pilothouse.probes.report import ReadoutReport, Score, ThresholdReport
from pilothouse.probes.score import Row, sequence_logits, token_logits
from pilothouse.probes.threshold import thresholds_of

Floats = NDArray[np.float64]


class MeasuredReadout(NamedTuple):
    """A readout as the manifest holds it, and its report."""

    readout: Readout
    report: ReadoutReport


def calibrated_readout(
    row: Row, wanted: ReadoutRecipe, recipe: Recipe, calibration: Dataset, test: Dataset
) -> MeasuredReadout:
    """Platt and thresholds from the calibration data, figures from the test data.

    Both data sets are whole; they are cut to the readout's scope here.

    Raises:
        ConfigError: a class is missing in either, within the scope.
    """
    known, unseen = calibration.scoped(wanted.scope), test.scoped(wanted.scope)
    logits_N = sequence_logits(token_logits(row, known), known.starts, wanted.aggregate)
    platt = fit_platt(logits_N, known.labels_N)
    values_N = apply(logits_N, platt.slope, platt.offset)
    is_negative = ~known.labels_N
    thresholds = thresholds_of(
        values_N[is_negative],
        recipe.target_fprs,
        known.lengths_N[is_negative],
        recipe.length_buckets,
    )
    logits_M = sequence_logits(token_logits(row, unseen), unseen.starts, wanted.aggregate)
    values_M = apply(logits_M, platt.slope, platt.offset)
    score = score_of(logits_M, unseen, recipe.seed)
    met = {each.target_fpr for each in thresholds if each.length_bucket is None}
    report = ReadoutReport(
        score=score,
        thresholds=tuple(_on_test(each, recipe, values_M, unseen) for each in thresholds),
        unmet_targets=tuple(each for each in recipe.target_fprs if each not in met),
        unscored=len(test) - len(unseen),
    )
    readout = Readout(
        scope=wanted.scope,
        aggregate=wanted.aggregate,
        slope=platt.slope,
        offset=platt.offset,
        prior=platt.prior,
        thresholds=thresholds,
        evaluation=ReadoutEvaluation.model_validate(score.model_dump()),
    )
    return MeasuredReadout(readout, report)


def token_calibration(row: Row, calibration: Dataset) -> Platt:
    """Slope and offset of a single token, labelled as its sequence, each sequence with weight 1.

    The data must be cut to the scope already.
    """
    lengths_N = calibration.lengths_N
    return fit_platt(
        token_logits(row, calibration),
        np.repeat(calibration.labels_N, lengths_N),
        np.repeat(1.0 / lengths_N, lengths_N),
    )


def score_of(scores_M: Floats, test: Dataset, seed: int) -> Score:
    """AUROC and TPR at 1% FPR of any scorer, intervals by bootstrap over groups.

    Raises:
        ConfigError: a class is missing, or a score is NaN.
    """
    labels_M, groups_M = test.labels_N, test.groups_N
    positives = int(labels_M.sum())
    if not 0 < positives < len(test):
        raise ConfigError(f"evaluation: got {positives} positives of {len(test)}, want both")
    return Score(
        auroc=bootstrap(auroc, scores_M, labels_M, groups_M, seed=seed),
        tpr_at_fpr_1_percent=bootstrap(tpr_at_fpr, scores_M, labels_M, groups_M, seed=seed),
        n_positive=positives,
        n_negative=len(test) - positives,
    )


def _on_test(
    threshold: Threshold, recipe: Recipe, values_M: Floats, test: Dataset
) -> ThresholdReport:
    inside = np.ones(len(test), dtype=bool)
    if threshold.length_bucket is not None:
        below = [each for each in recipe.length_buckets if each < threshold.length_bucket]
        lengths_M = test.lengths_N
        inside = (lengths_M > max(below, default=0)) & (lengths_M <= threshold.length_bucket)
    fired = values_M >= threshold.value
    return ThresholdReport(
        target_fpr=threshold.target_fpr,
        value=threshold.value,
        length_bucket=threshold.length_bucket,
        fpr=_share(fired[inside & ~test.labels_N]),
        tpr=_share(fired[inside & test.labels_N]),
    )


def _share(fired: NDArray[np.bool_]) -> Interval | None:
    return wilson(int(fired.sum()), fired.size) if fired.size else None
