"""The mean of the k largest logits of a run, or of all while there are fewer.

Shapes: as in `base`; k = k_tokens.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Floats,
    OrderedAggregator,
    register_aggregator,
    scored,
)
from pilothouse.types import Aggregate


@register_aggregator("top_k_mean")
class TopKMean(OrderedAggregator):
    """The mean of the largest; state: those, -inf where there is none yet, NaN for one unscored."""

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        assert aggregate.k_tokens is not None
        self.state_width = aggregate.k_tokens

    def start(self, count: int) -> Floats:
        return np.full((count, self.state_width), -np.inf)

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        # NaN sorts behind every number, so it is kept.
        all_M = np.concatenate([state_W, scored(logits_T)])
        state_W[:] = np.partition(all_M, logits_T.size)[logits_T.size :]

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        rows_B, least_B = np.arange(len(state_BW)), state_BW.argmin(axis=1)
        state_BW[rows_B, least_B] = np.maximum(state_BW[rows_B, least_B], scored(logits_B))

    def value(self, state_BW: Floats) -> Floats:
        is_there_BW = state_BW != -np.inf
        counts_B = is_there_BW.sum(axis=1)
        sums_B = np.where(is_there_BW, state_BW, 0.0).sum(axis=1)
        return np.where(counts_B > 0, sums_B / np.maximum(counts_B, 1), np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        """One pass for each of the k: what a larger one displaces is what the next one sees."""
        left_T, sums_T = scored(logits_T), np.zeros(logits_T.size)
        counts_T = np.zeros(logits_T.size)
        for largest in np.sort(state_W)[::-1]:
            largest_T = np.maximum.accumulate(np.append(largest, left_T))
            left_T = np.minimum(largest_T[:-1], left_T)
            is_there_T = largest_T[1:] != -np.inf
            sums_T += np.where(is_there_T, largest_T[1:], 0.0)
            counts_T += is_there_T
        means_T: Floats = sums_T / counts_T
        return means_T
