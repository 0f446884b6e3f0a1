"""Measures a probe, and everything it stands beside, on texts that fitting never met.

Shapes: M sequences of a test.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import Interval
from pilothouse.errors import ConfigError
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.metrics import (
    RESAMPLES,
    Floats,
    auprc,
    auroc,
    bootstrap,
    bootstrap_draws,
    calibration_error,
    tpr_at_fpr,
)
from pilothouse.probes.readout import score_of
from pilothouse.probes.report import Figures, Form, HeldOutReport, TestKind, TprReport
from pilothouse.probes.transfer import PROBE, SHUFFLED

SHOWN_FPRS = (0.001, 0.01, 0.05)
DIFFERENCE = "difference of means"
READ_ACTIVATIONS = frozenset({PROBE, SHUFFLED, DIFFERENCE})
"""Scorers that are probes themselves: to be ahead of them says nothing of texts."""


def figures_of(
    logits_M: Floats,
    values_M: Floats | None,
    labels_M: NDArray[np.bool_],
    groups_M: object,
    seed: int,
) -> Figures:
    """All figures of a probe on one test, intervals by bootstrap over groups.

    Args:
        logits_M: aggregated logits, by which sequences are ranked: values can round to 1.
        values_M: the calibrated values; None of a row that was not calibrated.
        labels_M: of each sequence.
        groups_M: whatever is resampled together.
        seed: of the resamples.

    Raises:
        ConfigError: a class is missing, or a number is NaN.
    """
    positives = int(labels_M.sum())
    if not 0 < positives < labels_M.size:
        raise ConfigError(
            f"test: got {positives} positives of {labels_M.size} sequences, want both classes"
        )
    groups = np.asarray(groups_M)
    negatives = labels_M.size - positives

    def tpr(target: float) -> Interval:
        return bootstrap(
            lambda scores, labels: tpr_at_fpr(scores, labels, target),
            logits_M,
            labels_M,
            groups,
            seed=seed,
        )

    return Figures(
        auroc=bootstrap(auroc, logits_M, labels_M, groups, seed=seed),
        auprc=bootstrap(auprc, logits_M, labels_M, groups, seed=seed, resamples=RESAMPLES // 2),
        tprs=tuple(
            TprReport(target_fpr=each, tpr=tpr(each), is_supported=negatives * each >= 1)
            for each in SHOWN_FPRS
        ),
        ece=None if values_M is None else calibration_error(values_M, labels_M),
        n_positive=positives,
        n_negative=negatives,
    )


def held_out_report(
    name: str,
    kind: TestKind,
    form: Form,
    scores: Mapping[str, Floats],
    values_M: Floats | None,
    test: Dataset,
    *,
    overlapping: int = 0,
    seed: int,
) -> HeldOutReport:
    """One test under the probe and its baselines.

    Args:
        name: of the test.
        kind: how it was kept from the fit.
        form: how its texts are written.
        scores: scores_M of each scorer, the probe's logits under `PROBE`.
        values_M: the probe's calibrated values; None where it was not calibrated.
        test: labels and groups.
        overlapping: texts that were left out of it.
        seed: of the resamples.

    Raises:
        ConfigError: a class is missing, or a score is NaN.
    """
    labels_M, groups_M = test.labels_N, test.groups_N
    figures = figures_of(scores[PROBE], values_M, labels_M, groups_M, seed)
    draws = {
        each: bootstrap_draws(auroc, found, labels_M, groups_M, seed=seed, resamples=RESAMPLES)
        for each, found in scores.items()
    }
    found = {each: auroc(scores_M, labels_M) for each, scores_M in scores.items()}
    baselines = [each for each in scores if each != PROBE]
    return HeldOutReport(
        name=name,
        kind=kind,
        form=form,
        probe=figures,
        baselines={each: score_of(scores[each], test, seed) for each in baselines},
        leads={
            each: _interval(found[PROBE] - found[each], draws[PROBE] - draws[each])
            for each in baselines
        },
        best_baseline=max(
            (each for each in baselines if each not in READ_ACTIVATIONS),
            key=lambda each: found[each],
        ),
        overlapping=overlapping,
    )


def _interval(estimate: float, draws: Floats) -> Interval:
    """The percentile interval of a difference over resamples that both sides share."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(
        estimate=estimate, low=float(min(low, estimate)), high=float(max(high, estimate))
    )
