"""The newest logit of a run.

Shapes: as in `base`.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Aggregator,
    Counts,
    Floats,
    register_aggregator,
    scored,
)


@register_aggregator("last")
class Last(Aggregator):
    """The newest logit."""

    state_width = 1

    def start(self, count: int) -> Floats:
        return np.full((count, 1), np.nan)

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        state_BW[:, 0] = scored(logits_S[np.cumsum(counts_B) - 1])

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        state_BW[:, 0] = scored(logits_B)

    def value(self, state_BW: Floats) -> Floats:
        return state_BW[:, 0].copy()

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:  # noqa: ARG002
        return scored(logits_T)
