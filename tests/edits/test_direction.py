"""Directions from contrasts."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.edits.direction import mean_difference, mean_norms, random_like
from pilothouse.errors import ConfigError

GENERATOR = np.random.default_rng(7)
HIDDEN = GENERATOR.normal(size=(50, 3, 8)).astype(np.float32)


def test_the_mean_difference_finds_a_planted_direction() -> None:
    planted = GENERATOR.normal(size=(3, 8)).astype(np.float32)
    assert np.allclose(mean_difference(HIDDEN + planted, HIDDEN), planted, atol=1e-5)


def test_mean_norms_are_means_of_lengths() -> None:
    wanted = [np.mean([np.linalg.norm(each[layer]) for each in HIDDEN]) for layer in range(3)]
    assert np.allclose(mean_norms(HIDDEN), wanted, rtol=1e-6)


def test_a_random_control_has_the_same_length_and_another_direction() -> None:
    direction = HIDDEN[0]
    control = random_like(direction, seed=3)
    assert np.allclose(
        np.linalg.norm(control, axis=-1), np.linalg.norm(direction, axis=-1), rtol=1e-5
    )
    assert not np.allclose(control, direction)
    assert np.array_equal(control, random_like(direction, seed=3))
    assert not np.array_equal(control, random_like(direction, seed=4))


@pytest.mark.parametrize("bad", [HIDDEN[:0], HIDDEN[0], HIDDEN * np.nan])
def test_activations_that_cannot_be_averaged_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="direction: positive: got"):
        mean_difference(bad, HIDDEN)


def test_sets_of_other_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="want the same for both sets"):
        mean_difference(HIDDEN, HIDDEN[:, :2])
