"""Figures of a held-out test: right by hand, paired, and honest about too few negatives."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.errors import ConfigError
from pilothouse.probes.held_out import DIFFERENCE, figures_of, held_out_report
from pilothouse.probes.metrics import auprc, calibration_error
from pilothouse.probes.report import HeldOutReport
from pilothouse.probes.threshold import clopper_pearson_upper, negatives_needed
from pilothouse.probes.transfer import PROBE, SHUFFLED
from tests.support.training.planted_activations import planted


def report(scores: dict[str, np.ndarray], count: int = 80) -> HeldOutReport:
    test = planted(count, 5)
    filled = {name: values(test.labels_N.astype(float)) for name, values in scores.items()}  # type: ignore[operator]
    values_M = 1 / (1 + np.exp(-filled[PROBE]))
    return held_out_report("t", "test file", "as written", filled, values_M, test, seed=0)


def noisy(scale: float, seed: int):  # type: ignore[no-untyped-def]
    return lambda labels: labels + np.random.default_rng(seed).normal(size=labels.size) * scale


def test_a_lead_is_paired_and_the_best_baseline_reads_no_activations() -> None:
    found = report(
        {
            PROBE: noisy(0.5, 1),
            DIFFERENCE: noisy(0.1, 2),
            SHUFFLED: noisy(0.1, 3),
            "TF-IDF": noisy(1.0, 4),
            "shape": noisy(5.0, 5),
        }
    )
    assert found.best_baseline == "TF-IDF"
    assert found.leads["shape"].low > 0
    assert found.leads[DIFFERENCE].estimate < 0
    estimate = found.probe.auroc.estimate - found.baselines["TF-IDF"].auroc.estimate
    assert found.leads["TF-IDF"].estimate == pytest.approx(estimate)


def test_a_scorer_has_no_lead_over_itself() -> None:
    found = report({PROBE: noisy(1.0, 1), "shape": noisy(1.0, 1)})
    lead = found.leads["shape"]
    assert (lead.low, lead.estimate, lead.high) == (0.0, 0.0, 0.0)


def test_a_rate_with_too_few_negatives_says_so() -> None:
    labels = np.arange(300) % 2 == 0
    scores = labels + np.random.default_rng(0).normal(size=300)
    found = figures_of(scores, 1 / (1 + np.exp(-scores)), labels, np.arange(300), 0)
    assert {each.target_fpr: each.is_supported for each in found.tprs} == {
        0.001: False,
        0.01: True,
        0.05: True,
    }


def test_one_label_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 3 positives of 3 sequences, want both"):
        figures_of(np.ones(3), np.ones(3), np.ones(3, bool), np.arange(3), 0)


def test_precision_over_recall_is_that_of_a_known_order() -> None:
    # Precisions at the two positives are 1/1 and 2/3.
    assert auprc([4, 3, 2, 1], [True, False, True, False]) == pytest.approx((1 + 2 / 3) / 2)


def test_the_calibration_error_is_the_gap_by_bins() -> None:
    values, labels = np.full(10, 0.75), np.arange(10) < 5
    assert calibration_error(values, labels) == pytest.approx(0.25)
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0.0
    with pytest.raises(ConfigError, match="want them in"):
        calibration_error([0.5, 1.5], [True, False])


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 299), (0.001, 2995), (0.0005, 5990)])
def test_the_negatives_that_a_rate_needs_are_the_fewest(rate: float, needed: int) -> None:
    assert negatives_needed(rate) == needed
    assert clopper_pearson_upper(0, needed) <= rate < clopper_pearson_upper(0, needed - 1)


def test_a_rate_outside_its_range_is_refused() -> None:
    for rate in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="want a rate between 0 and 1"):
            negatives_needed(rate)
