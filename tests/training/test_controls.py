"""Controls have the length and not the content; the bootstrap tells steady from unsteady."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.training.controls import bootstrap_cosines, random_direction, shuffled_direction
from pilothouse.training.methods import mean_difference
from tests.support.training.planted_samples import cosine, planted


def test_a_random_direction_has_the_length_and_no_other_likeness() -> None:
    _, unit_D = planted(width=400)
    drawn = [random_direction(7.0, 400, np.random.default_rng(seed)) for seed in range(50)]
    assert [np.linalg.norm(each) for each in drawn] == pytest.approx([7.0] * 50)
    assert abs(np.mean([cosine(each, unit_D) for each in drawn])) < 0.03


def test_shuffled_labels_lose_the_planted_direction() -> None:
    sample, unit_D = planted()
    drawn = [
        shuffled_direction(mean_difference, sample, 2.0, np.random.default_rng(seed))
        for seed in range(40)
    ]
    assert [np.linalg.norm(each) for each in drawn] == pytest.approx([2.0] * 40)
    assert abs(np.mean([cosine(each, unit_D) for each in drawn])) < 0.15
    assert cosine(mean_difference(sample).direction_D, unit_D) > 0.95


def test_shuffling_deals_out_the_same_states() -> None:
    sample, _ = planted(pairs=6)
    shuffled = sample.shuffled(np.random.default_rng(0))
    before = np.concatenate([sample.positive_NF, sample.negative_NF])
    after = np.concatenate([shuffled.positive_NF, shuffled.negative_NF])
    assert sorted(map(tuple, before)) == sorted(map(tuple, after))
    assert not np.array_equal(before, after)


def test_a_resample_takes_whole_groups() -> None:
    sample, _ = planted(pairs=40)
    drawn = sample.resampled(np.random.default_rng(0))
    number = {tuple(row): n for n, row in enumerate(sample.positive_NF)}
    rows = [number[tuple(row)] for row in drawn.positive_NF]
    assert all(rows[n + 1] == rows[n] + 1 and rows[n] % 2 == 0 for n in range(0, len(rows), 2))
    assert len(set(rows)) < len(rows) == 40
    assert len(set(drawn.groups_N)) == 20


def test_a_clear_direction_is_steady_and_noise_is_not() -> None:
    clear, _ = planted(gap=4.0)
    noise, _ = planted(gap=0.0, pairs=30)
    steady = bootstrap_cosines(mean_difference, clear, 30, np.random.default_rng(0))
    loose = bootstrap_cosines(mean_difference, noise, 30, np.random.default_rng(0))
    assert len(steady) == 30
    assert steady.mean() > 0.95 > 0.85 > loose.mean()
