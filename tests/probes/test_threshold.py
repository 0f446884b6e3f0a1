"""Thresholds: the exact facts of the bound, and that no smaller value would do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.errors import ConfigError
from pilothouse.probes.threshold import (
    allowed_exceedances,
    clopper_pearson_upper,
    smallest_threshold,
    thresholds_of,
)
from tests.reference.statistics import binomial_at_most


@pytest.mark.parametrize(("target", "needed"), [(0.01, 299), (0.001, 2995), (0.0005, 5990)])
def test_zero_exceedances_need_so_many_negatives(target: float, needed: int) -> None:
    assert clopper_pearson_upper(0, needed) <= target
    assert clopper_pearson_upper(0, needed - 1) > target
    assert allowed_exceedances(needed, target) == 0
    assert allowed_exceedances(needed - 1, target) is None


@given(st.integers(1, 300), st.data())
def test_the_bound_leaves_five_percent_below(count: int, data: st.DataObject) -> None:
    exceedances = data.draw(st.integers(0, count - 1))
    upper = clopper_pearson_upper(exceedances, count)
    assert binomial_at_most(exceedances, count, upper) == pytest.approx(0.05, rel=1e-6)


def test_all_exceeding_is_bounded_by_one() -> None:
    assert clopper_pearson_upper(7, 7) == 1.0


@given(st.integers(1, 20_000), st.sampled_from([0.3, 0.05, 0.01, 0.001]))
def test_one_more_exceedance_would_break_the_target(count: int, target: float) -> None:
    allowed = allowed_exceedances(count, target)
    if allowed is None:
        assert clopper_pearson_upper(0, count) > target
        return
    assert clopper_pearson_upper(allowed, count) <= target
    assert clopper_pearson_upper(allowed + 1, count) > target


@given(
    st.integers(0, 1 << 32),
    st.integers(50, 3000),
    st.sampled_from([0.1, 0.05, 0.01]),
    st.sampled_from([None, 1, 2]),
)
def test_it_is_the_smallest_value_that_meets_the_target(
    seed: int, count: int, target: float, digits: int | None
) -> None:
    values = np.random.default_rng(seed).random(count)
    values = values if digits is None else np.round(values * 0.9, digits)
    found = smallest_threshold(values, target)
    if found is None:
        assert allowed_exceedances(count, target) is None
        return
    assert found.exceedances == (values >= found.value).sum()
    assert found.fpr_upper == clopper_pearson_upper(found.exceedances, count) <= target
    below = np.nextafter(found.value, -np.inf)
    assert clopper_pearson_upper(int((values >= below).sum()), count) > target


def test_the_bound_holds_on_fresh_traffic_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    met = []
    for _ in range(2000):
        found = smallest_threshold(generator.random(400), 0.05)
        assert found is not None
        met.append(1.0 - found.value <= 0.05)
    assert np.mean(met) >= 0.94


def test_too_few_negatives_give_no_threshold() -> None:
    assert smallest_threshold(np.zeros(298), 0.01) is None
    assert smallest_threshold(np.empty(0), 0.01) is None


def test_negatives_at_one_exactly_cannot_be_cut_off() -> None:
    assert smallest_threshold(np.ones(1000), 0.01) is None


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
def test_a_target_outside_the_open_interval_is_refused(target: float) -> None:
    with pytest.raises(ConfigError, match="threshold: got target"):
        smallest_threshold(np.zeros(1000), target)


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_values_that_are_not_calibrated_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="want a target"):
        smallest_threshold(np.array([0.5, bad]), 0.5)


def test_each_length_bucket_has_its_own_negatives() -> None:
    lengths = np.repeat([10, 600, 3000], [400, 300, 5])
    values = np.repeat([0.1, 0.6, 0.9], [400, 300, 5])
    found = thresholds_of(values, (0.01,), lengths, (512, 2048, 8192))
    assert [each.length_bucket for each in found] == [None, 512, 2048]
    assert [each.n for each in found] == [705, 400, 300]
    assert [round(each.value, 6) for each in found] == [0.9, 0.1, 0.6]


def test_buckets_without_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="buckets without lengths"):
        thresholds_of(np.zeros(400), (0.01,), None, (512,))
