"""Deals labelled rows out by group, so that each side has its share of both classes.

Shapes: N rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pilothouse.errors import ConfigError

FOLDS = 4
FEWEST_OF_A_SOURCE = 8
"""Rows of each class with which a source can be left out by itself."""
THE_REST = "other sources"

Indices = NDArray[np.int64]


def deal_groups(
    labels_N: ArrayLike, groups_N: Sequence[str], shares: Sequence[float], seed: int
) -> Indices:
    """side_N: the number of each row's side. Equal groups lie on one side.

    Groups of one class, and mixed ones, are dealt out each for themselves, in an order that hangs
    on their names and the seed.

    Raises:
        ConfigError: too few groups for each side to have both classes.
    """
    labels = np.asarray(labels_N, bool)
    names, group_N = np.unique(np.asarray(groups_N, object).astype(str), return_inverse=True)
    rows_G = np.bincount(group_N, minlength=len(names))
    positive_G = np.bincount(group_N, labels, len(names))
    kind_G = np.where(positive_G == rows_G, 1, np.where(positive_G == 0, 0, 2))
    order = sorted(range(len(names)), key=lambda g: _place(str(names[g]), seed))
    side_G = np.zeros(len(names), np.int64)
    borders = np.cumsum(shares)[:-1]
    for kind in (0, 1, 2):
        of_kind = [g for g in order if kind_G[g] == kind]
        if of_kind:
            rows = rows_G[of_kind]
            middle = (np.cumsum(rows) - rows / 2) / rows.sum()
            side_G[of_kind] = np.searchsorted(borders, middle, side="right")
    side_N: Indices = side_G[group_N]
    for side in range(len(shares)):
        inside = labels[side_N == side]
        if not 0 < inside.sum() < inside.size:
            raise ConfigError(
                where="groups",
                got=f"{len(names)} groups, {int((positive_G > 0).sum())} of them with a positive "
                f"and {int((positive_G < rows_G).sum())} with a negative",
                want="enough of each to divide: rows of one group stay together",
                fix="label more texts, or give finer groups",
            )
    return side_N


def families_of(
    labels_N: ArrayLike, groups_N: Sequence[str], sources_N: Sequence[str], seed: int
) -> tuple[list[str], bool]:
    """What is left out in turn to choose by: sources where there are two, else folds of groups.

    Returns:
        The family of each row, and whether families are sources. Sources that cannot be left out
        by themselves are one together, or belong to the largest.

    Raises:
        ConfigError: too few groups for folds.
    """
    labels, sources = np.asarray(labels_N, bool), np.asarray(sources_N, object)
    whole = whole_sources(labels, sources_N)
    if len(whole) < 2:
        fold_N = deal_groups(labels, groups_N, [1 / FOLDS] * FOLDS, seed)
        return [f"fold {fold + 1}" for fold in fold_N], False
    rest = ~np.isin(sources, whole)
    if rest.any():
        is_whole = min(labels[rest].sum(), (~labels[rest]).sum()) >= FEWEST_OF_A_SOURCE
        largest = max(whole, key=lambda each: int((sources == each).sum()))
        sources = sources.copy()
        sources[rest] = THE_REST if is_whole else largest
    return [str(each) for each in sources], True


def whole_sources(labels_N: ArrayLike, sources_N: Sequence[str]) -> list[str]:
    """The sources with enough of both classes to be left out."""
    labels, sources = np.asarray(labels_N, bool), np.asarray(sources_N, object)
    return [
        each
        for each in sorted(set(sources_N))
        if min(labels[sources == each].sum(), (~labels[sources == each]).sum())
        >= FEWEST_OF_A_SOURCE
    ]


def _place(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
