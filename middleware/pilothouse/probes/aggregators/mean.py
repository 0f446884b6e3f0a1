"""The mean logit of a run.

Shapes: as in `base`.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Aggregator,
    Counts,
    Floats,
    firsts,
    register_aggregator,
    scored,
)


@register_aggregator("mean")
class Mean(Aggregator):
    """The mean logit; state: sum, count."""

    state_width = 2

    def start(self, count: int) -> Floats:
        return np.zeros((count, 2))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        state_W[0] += scored(logits_T).sum()
        state_W[1] += logits_T.size

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        state_BW[:, 0] += np.add.reduceat(scored(logits_S), firsts(counts_B))
        state_BW[:, 1] += counts_B

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        state_BW[:, 0] += scored(logits_B)
        state_BW[:, 1] += 1.0

    def value(self, state_BW: Floats) -> Floats:
        sums_B, counts_B = state_BW[:, 0], state_BW[:, 1]
        return np.where(counts_B > 0, sums_B / np.maximum(counts_B, 1.0), np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        sums_T = state_W[0] + np.cumsum(scored(logits_T))
        means_T: Floats = sums_T / (state_W[1] + np.arange(1, logits_T.size + 1))
        return means_T
