"""What a vector is fitted on: one state for each side of each pair, at one place.

Shape suffixes: N pairs, F numbers of a state (the width of the site, or codes of an SAE).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """States of positives and negatives, pair by pair."""

    positive_NF: Floats
    negative_NF: Floats
    groups_N: NDArray[np.str_]

    def resampled(self, generator: np.random.Generator) -> Sample:
        """As many groups again, drawn with replacement; each draw is a group of its own."""
        names, group_N = np.unique(self.groups_N, return_inverse=True)
        drawn = generator.integers(0, len(names), len(names))
        rows = [np.flatnonzero(group_N == each) for each in drawn]
        labels = np.repeat(np.arange(len(drawn)), [len(each) for each in rows]).astype(np.str_)
        kept = np.concatenate(rows)
        return Sample(self.positive_NF[kept], self.negative_NF[kept], labels)

    def shuffled(self, generator: np.random.Generator) -> Sample:
        """The same states dealt out anew to sides and pairs: nothing is left to learn."""
        pool = np.concatenate([self.positive_NF, self.negative_NF])
        pool = pool[generator.permutation(len(pool))]
        half = len(self.groups_N)
        return Sample(pool[:half], pool[half:], self.groups_N)
