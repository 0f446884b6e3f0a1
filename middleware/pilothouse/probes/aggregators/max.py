"""The largest logit of a run.

Shapes: as in `base`.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Aggregator,
    Counts,
    Floats,
    firsts,
    highest,
    register_aggregator,
    scored,
)


@register_aggregator("max")
class Max(Aggregator):
    """The largest logit."""

    state_width = 1

    def start(self, count: int) -> Floats:
        return np.full((count, 1), -np.inf)

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        highest_B = np.maximum.reduceat(scored(logits_S), firsts(counts_B))
        np.maximum(state_BW[:, 0], highest_B, out=state_BW[:, 0])

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        np.maximum(state_BW[:, 0], scored(logits_B), out=state_BW[:, 0])

    def value(self, state_BW: Floats) -> Floats:
        return scored(state_BW[:, 0])

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return highest(state_W[0], scored(logits_T))
