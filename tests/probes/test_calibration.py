"""Platt calibration: right where the truth is known, and monotone always."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from pilothouse.errors import ConfigError
from pilothouse.probes.calibration import MIN_SLOPE, Platt, apply, fit_platt, shift_prior

finite = st.floats(-1e6, 1e6)


@given(finite, st.floats(0.01, 50), st.floats(-50, 50))
def test_apply_is_the_logistic_function(logit: float, slope: float, offset: float) -> None:
    z = slope * logit + offset
    wanted = 1 / (1 + math.exp(-z)) if z > -700 else 0.0
    assert float(apply(logit, slope, offset)) == pytest.approx(wanted, rel=1e-9, abs=1e-15)


def test_apply_takes_a_column_per_signal_and_keeps_nan() -> None:
    logits_BK = np.array([[0.0, 2.0], [np.nan, -2.0]])
    values = apply(logits_BK, np.array([1.0, 2.0]), np.array([0.0, -4.0]))
    assert values[0].tolist() == [0.5, 0.5]
    assert math.isnan(values[1, 0])


def test_the_fit_finds_the_curve_that_made_the_labels() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(3.0, 4.0, 200_000)
    labels = generator.random(logits.size) < apply(logits, 0.7, -1.3)
    platt = fit_platt(logits, labels)
    assert platt.slope == pytest.approx(0.7, rel=0.03)
    assert platt.offset == pytest.approx(-1.3, abs=0.05)
    assert platt.prior == labels.mean()


def test_the_fit_agrees_with_logistic_regression_on_many_points() -> None:
    generator = np.random.default_rng(1)
    labels = generator.random(50_000) < 0.3
    logits = generator.normal(size=labels.size) + 1.5 * labels
    other = LogisticRegression(C=1e9, tol=1e-10).fit(logits[:, None], labels)
    platt = fit_platt(logits, labels)
    assert platt.slope == pytest.approx(float(other.coef_[0, 0]), rel=2e-3)
    assert platt.offset == pytest.approx(float(other.intercept_[0]), abs=5e-3)


def test_weights_count_as_repetitions() -> None:
    generator = np.random.default_rng(2)
    labels = np.arange(400) % 2 == 0
    logits = generator.normal(size=400) + labels
    times = generator.integers(1, 5, 400)
    one = fit_platt(logits, labels, times)
    other = fit_platt(np.repeat(logits, times), np.repeat(labels, times))
    assert one.slope == pytest.approx(other.slope, rel=1e-5)
    assert one.offset == pytest.approx(other.offset, rel=1e-5)
    assert one.prior == pytest.approx(other.prior)


def test_a_perfect_split_stays_finite_and_is_sure_only_as_far_as_it_has_data() -> None:
    labels = np.arange(200) < 100
    platt = fit_platt(np.where(labels, 5.0, -5.0), labels)
    assert float(apply(5.0, platt.slope, platt.offset)) == pytest.approx(101 / 102, rel=1e-4)
    assert float(apply(-5.0, platt.slope, platt.offset)) == pytest.approx(1 / 102, rel=1e-3)


def test_a_probe_that_points_the_wrong_way_comes_out_flat_and_rising() -> None:
    labels = np.arange(200) < 100
    platt = fit_platt(np.where(labels, -5.0, 5.0), labels)
    assert platt.slope * 5.0 == pytest.approx(MIN_SLOPE)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_scale_of_logits_does_not_matter(scale: float) -> None:
    generator = np.random.default_rng(3)
    labels = np.arange(500) % 2 == 0
    logits = generator.normal(size=500) + labels
    one, other = fit_platt(logits, labels), fit_platt(logits * scale, labels)
    assert other.slope * scale == pytest.approx(one.slope, rel=1e-3)


def test_a_shift_of_prior_moves_the_log_odds() -> None:
    platt = Platt(slope=2.0, offset=0.5, prior=0.5)
    shifted = shift_prior(platt, 0.01)
    assert shifted.slope == 2.0
    assert shifted.offset == pytest.approx(0.5 + math.log(0.01 / 0.99))
    back = shift_prior(shifted, 0.5)
    assert back.offset == pytest.approx(0.5)


def test_a_shift_of_prior_is_bayes_rule() -> None:
    platt = Platt(slope=1.3, offset=-0.2, prior=0.4)
    value = float(apply(0.9, platt.slope, platt.offset))
    weight_1, weight_0 = value * 0.05 / 0.4, (1 - value) * 0.95 / 0.6
    shifted = shift_prior(platt, 0.05)
    assert float(apply(0.9, shifted.slope, shifted.offset)) == pytest.approx(
        weight_1 / (weight_1 + weight_0)
    )


@pytest.mark.parametrize("prior", [0.0, 1.0, -1.0, math.nan])
def test_a_prior_outside_the_open_interval_is_refused(prior: float) -> None:
    with pytest.raises(ConfigError, match="prior: got"):
        shift_prior(Platt(1.0, 0.0, 0.5), prior)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([1.0, math.nan], [True, False])],
)
def test_data_that_cannot_calibrate_are_refused(logits: list[float], labels: list[bool]) -> None:
    with pytest.raises(ConfigError, match="calibration: got"):
        fit_platt(logits, labels)
