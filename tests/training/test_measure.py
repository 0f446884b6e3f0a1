"""Figures from what an engine says, and how far two sides lie apart, on known samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from pilothouse.training.measure import MOST, Heard, coarse_kl, figures, mean_interval, separation
from pilothouse.training.scored_text import Said
from tests.support.training.planted_samples import planted


def top(log_p: np.ndarray, count: int) -> dict[int, float]:
    return {int(each): float(log_p[each]) for each in np.argsort(-log_p)[:count]}


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0.0, 3.0))
def test_the_coarse_divergence_never_exceeds_the_true_one(
    seed: int, count: int, size: float
) -> None:
    generator = np.random.default_rng(seed)
    plain = log_softmax(2 * generator.normal(size=60))
    steered = log_softmax(plain + size * generator.normal(size=60))
    true = float(rel_entr(np.exp(plain), np.exp(steered)).sum())
    assert 0 <= coarse_kl(top(plain, count), top(steered, count)) <= true + 1e-5
    whole = coarse_kl(top(plain, 60), top(steered, 60))
    assert whole == pytest.approx(true, abs=1e-5)


def test_the_coarse_divergence_sees_a_shift_of_the_top() -> None:
    plain = log_softmax(np.arange(30.0))
    assert coarse_kl(top(plain, 20), top(plain, 20)) == pytest.approx(0, abs=1e-6)
    assert coarse_kl(top(plain, 20), top(plain[::-1].copy(), 20)) > 0.5


def said(*log_probabilities: float, first: bool = True) -> Said:
    found = np.array(log_probabilities)
    return Said(found, np.full(len(found), first), [{1: float(each)} for each in found])


def test_figures_by_hand() -> None:
    plain = Heard(
        [said(-2.0, -4.0), said(-1.0)],
        [said(-1.0), said(-1.0, -3.0)],
        [said(-1.0, -1.0), Said(np.array([-2.0]), np.array([False]), [{1: -2.0}])],
        np.array([True, True, False]),
    )
    steered = Heard(
        [said(-1.0, -3.0), said(-2.0)],
        [said(-1.0), said(-1.0, -3.0)],
        [Said(np.array([-1.0, -3.0]), np.array([True, False]), [{1: -1.0}, {1: -3.0}]), said(-3.0)],
        np.array([True, False, True]),
    )
    found = figures(plain, steered)
    assert found.effect == pytest.approx((1.0 - 1.0) / 2)  # margins -2 and 1 become -1 and 0
    assert found.moved == 0.5
    assert found.perplexity_ratio == pytest.approx(np.exp(7 / 3 - 4 / 3))
    assert found.choices_kept == 0.5
    assert found.facts_kept == 0.5


def test_what_cannot_be_kept_is_not_told() -> None:
    heard = Heard([said(-1.0)], [said(-1.0)], [said(-1.0, first=False)], np.zeros(0, bool))
    assert (figures(heard, heard).choices_kept, figures(heard, heard).facts_kept) == (None, None)


def test_an_interval_resamples_groups_and_not_rows() -> None:
    generator = np.random.default_rng(0)
    means = generator.normal(size=12)
    values = np.repeat(means, 50) + 0.01 * generator.normal(size=600)
    by_group = mean_interval(values, np.repeat(np.arange(12), 50).astype(str).tolist(), 0)
    by_row = mean_interval(values, [str(n) for n in range(600)], 0)
    wanted = 1.96 * means.std(ddof=1) / np.sqrt(12)
    assert by_group.high - by_group.low == pytest.approx(2 * wanted, rel=0.25)
    assert by_row.high - by_row.low < (by_group.high - by_group.low) / 3
    assert by_group.low <= by_group.estimate <= by_group.high


def test_the_distance_is_the_gap_in_standard_deviations() -> None:
    draw = np.random.default_rng(0)
    unit_D = np.zeros(5)
    unit_D[2] = 1.0
    sides = draw.normal(size=(2, 4000, 5))
    sides[0, :, 2] = 3.0 + 2.0 * sides[0, :, 2]
    sides[1, :, 2] = 2.0 * sides[1, :, 2]
    assert separation(7.0 * unit_D, *sides) == pytest.approx(1.5, abs=0.1)
    assert separation(-unit_D, *sides) == pytest.approx(-1.5, abs=0.1)


def test_a_planted_direction_lies_further_apart_than_another() -> None:
    sample, unit_D = planted()
    other_D = np.roll(unit_D, 1)
    sides = sample.positive_NF, sample.negative_NF
    assert separation(unit_D, *sides) > 1.0 > abs(separation(other_D, *sides))


def test_sides_that_do_not_vary_are_told_apart_without_end() -> None:
    one_ND = np.ones((3, 2))
    assert separation(np.array([1.0, 0.0]), one_ND, one_ND) == 0.0
    assert separation(np.array([1.0, 0.0]), 2 * one_ND, one_ND) == pytest.approx(MOST)
