"""Figures of merit against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.errors import ConfigError
from pilothouse.probes.metrics import (
    auroc,
    bootstrap,
    bootstrap_draws,
    partial_auroc,
    tpr_at_fpr,
    wilson,
)
from tests.reference import statistics


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[float], list[bool]]:
    count = draw(st.integers(2, 40))
    several = st.lists(st.booleans(), min_size=count, max_size=count)
    labels = draw(several.filter(lambda each: any(each) and not all(each)))
    scores = st.integers(-5, 5).map(float) if draw(st.booleans()) else st.floats(-9, 9)
    return draw(st.lists(scores, min_size=count, max_size=count)), labels


@given(scored())
def test_auroc_counts_pairs(case: tuple[list[float], list[bool]]) -> None:
    assert auroc(*case) == pytest.approx(statistics.auroc(*case), abs=1e-12)


@given(scored(), st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9]))
def test_tpr_at_fpr_never_passes_more_negatives_than_asked(
    case: tuple[list[float], list[bool]], target: float
) -> None:
    assert tpr_at_fpr(*case, target) == statistics.tpr_at_fpr(*case, target)


def test_a_target_that_rounds_down_keeps_its_share() -> None:
    negatives = np.arange(100.0)
    scores = np.concatenate([negatives, [70.5]])
    labels = np.arange(101) == 100
    assert tpr_at_fpr(scores, labels, 0.29) == 1.0
    assert tpr_at_fpr(scores, labels, 0.28) == 0.0


def test_partial_auroc_looks_at_few_false_positives_alone() -> None:
    labels = np.repeat([True, False], 1000)
    late = np.concatenate([np.full(1000, 0.5), np.repeat([1.0, 0.0], [100, 900])])
    assert auroc(late, labels) == pytest.approx(0.9)
    assert partial_auroc(late, labels, 0.05) < 0.5
    assert partial_auroc(labels.astype(float), labels) == 1.0


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_intervals(
    successes: int, count: int, low: float, high: float
) -> None:
    interval = wilson(successes, count)
    assert interval.estimate == successes / count
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_its_estimate(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    interval = wilson(successes, count)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


def test_the_bootstrap_agrees_with_the_known_error_of_a_mean() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=2000)
    labels = np.arange(2000) % 2 == 0

    def mean(values: np.ndarray, _: np.ndarray) -> float:
        return float(values.mean())

    interval = bootstrap(mean, scores, labels, np.arange(2000))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.1)


def test_copies_in_a_group_buy_no_certainty() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(100) % 2 == 0
    scores = generator.normal(size=100) + labels
    alone = bootstrap(auroc, scores, labels, np.arange(100))
    copied = bootstrap(
        auroc, np.repeat(scores, 9), np.repeat(labels, 9), np.repeat(np.arange(100), 9)
    )
    as_rows = bootstrap(auroc, np.repeat(scores, 9), np.repeat(labels, 9), np.arange(900))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert as_rows.high - as_rows.low < 0.5 * (copied.high - copied.low)


def test_a_resample_always_has_both_classes() -> None:
    labels = np.arange(6) == 0
    draws = bootstrap_draws(auroc, np.arange(6.0), labels, np.arange(6), seed=0, resamples=100)
    assert np.isfinite(draws).all()


def test_the_seed_decides_the_interval() -> None:
    labels = np.arange(60) % 2 == 0
    scores = np.random.default_rng(2).normal(size=60) + labels
    case = (auroc, scores, labels, np.arange(60))
    assert bootstrap(*case, seed=1) == bootstrap(*case, seed=1)
    assert bootstrap(*case, seed=1) != bootstrap(*case, seed=2)


@pytest.mark.parametrize("metric", [auroc, tpr_at_fpr, partial_auroc])
def test_what_cannot_be_measured_is_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ConfigError, match="want both classes"):
        metric([1.0, 2.0], [True, True])
    with pytest.raises(ConfigError, match="1 of them NaN"):
        metric([1.0, np.nan], [True, False])
    with pytest.raises(ConfigError, match="want one number for each label"):
        metric([1.0, 2.0, 3.0], [True, False])


@pytest.mark.parametrize(("successes", "count"), [(1, 0), (-1, 5), (6, 5)])
def test_a_share_of_nothing_is_refused(successes: int, count: int) -> None:
    with pytest.raises(ConfigError, match="share: got"):
        wilson(successes, count)
