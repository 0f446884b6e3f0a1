"""Splits by group, never by row: whatever shares a group lands on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ConfigError
from pilothouse.probes.dataset import Dataset


def split_by_group(dataset: Dataset, shares: Mapping[str, float], seed: int) -> dict[str, Dataset]:
    """One data set for each share of the groups; a group's side hangs on its name and the seed.

    Raises:
        ConfigError: shares that do not add up to 1, or a side without both classes.
    """
    if abs(sum(shares.values()) - 1.0) > 1e-9 or min(shares.values()) <= 0:
        raise ConfigError(f"split: got shares {dict(shares)}, want positive ones that add up to 1")
    place_N = np.array([_place(group, seed) for group in dataset.groups_N.tolist()])
    side_N = np.searchsorted(np.cumsum(list(shares.values()))[:-1], place_N, side="right")
    sides = {name: dataset.select(side_N == index) for index, name in enumerate(shares)}
    for name, side in sides.items():
        positives = int(side.labels_N.sum())
        if not 0 < positives < len(side):
            raise ConfigError(
                f"split: side {name!r}: got {positives} positives of {len(side)} sequences, want "
                "both classes; take more groups, or another seed"
            )
    return sides


def shuffled_labels(dataset: Dataset, seed: int) -> Dataset:
    """The control: the same activations, their labels dealt out anew."""
    labels_N: NDArray[np.bool_] = np.random.default_rng(seed).permutation(dataset.labels_N)
    return dataset.with_labels(labels_N)


def _place(group: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / float(1 << 56)
