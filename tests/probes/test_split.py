"""Splits by group."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.errors import ConfigError
from pilothouse.probes.split import shuffled_labels, split_by_group
from tests.support.training.planted_activations import planted

SHARES = {"train": 0.6, "validation": 0.4}


def test_no_group_is_on_two_sides_and_none_is_lost() -> None:
    data = planted(600, 0)
    sides = split_by_group(data, SHARES, seed=1)
    groups = {name: set(side.groups_N.tolist()) for name, side in sides.items()}
    assert not groups["train"] & groups["validation"]
    assert groups["train"] | groups["validation"] == set(data.groups_N.tolist())
    assert sum(len(side) for side in sides.values()) == len(data)
    assert len(sides["train"]) / len(data) == pytest.approx(0.6, abs=0.08)


def test_a_groups_side_does_not_hang_on_the_other_groups() -> None:
    data = planted(600, 0)
    half = data.select(np.arange(600) < 300)
    all_train = set(split_by_group(data, SHARES, seed=1)["train"].groups_N.tolist())
    half_train = set(split_by_group(half, SHARES, seed=1)["train"].groups_N.tolist())
    assert half_train == all_train & set(half.groups_N.tolist())


def test_the_seed_moves_groups() -> None:
    data = planted(600, 0)
    one, other = (split_by_group(data, SHARES, seed=seed)["train"] for seed in (1, 2))
    assert set(one.groups_N.tolist()) != set(other.groups_N.tolist())


def test_a_side_without_both_classes_is_refused() -> None:
    data = planted(40, 0)
    with pytest.raises(ConfigError, match="split: side 'train': got 0 positives"):
        split_by_group(data.with_labels(np.zeros(40)), SHARES, seed=1)


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.6}, {"a": 1.2, "b": -0.2}])
def test_shares_must_add_up(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="split: got shares"):
        split_by_group(planted(40, 0), shares, seed=1)


def test_shuffled_labels_keep_their_number_and_lose_their_meaning() -> None:
    data = planted(2000, 0)
    control = shuffled_labels(data, seed=3)
    assert control.labels_N.sum() == data.labels_N.sum()
    assert np.mean(control.labels_N == data.labels_N) == pytest.approx(0.5, abs=0.05)
    assert control.hidden_LTD is data.hidden_LTD
