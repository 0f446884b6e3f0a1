"""How far apart two sides lie, on samples of known distance."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.training.measure import MOST, separation
from tests.support.training.planted_samples import planted


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
