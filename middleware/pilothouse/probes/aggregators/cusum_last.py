"""The cumulative sum of a run's logits above a reference, begun again wherever it falls to zero.

Shapes: as in `base`.

C_t = max(0, C_(t-1) + logit_t - reference_logit - drift_logits), with C_0 = 0: Page's test for a
mean that has risen. Where logits are calibrated log odds and the reference is those of the prior,
it is the likelihood ratio of a change at the best place against none.
Source: Page 1954, "Continuous Inspection Schemes".
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Floats,
    OrderedAggregator,
    bounded,
    register_aggregator,
)
from pilothouse.types import Aggregate


@register_aggregator("cusum_last")
class CusumLast(OrderedAggregator):
    """The sum at the newest token; state: that, and how many tokens were seen."""

    state_width = 2

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        assert aggregate.reference_logit is not None
        assert aggregate.drift_logits is not None
        self.free = aggregate.reference_logit + aggregate.drift_logits

    def start(self, count: int) -> Floats:
        return np.zeros((count, self.state_width))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            state_W[0] = self._sums_T(state_W, logits_T)[-1]
            state_W[1] += logits_T.size

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        state_BW[:, 0] = np.maximum(state_BW[:, 0] + (bounded(logits_B) - self.free), 0.0)
        state_BW[:, 1] += 1.0

    def value(self, state_BW: Floats) -> Floats:
        return np.where(state_BW[:, 1] > 0.0, state_BW[:, 0], np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return self._sums_T(state_W, logits_T)

    def _sums_T(self, state_W: Floats, logits_T: Floats) -> Floats:
        """Return the sum after each token: how far a sum that may fall is above its lowest."""
        free_T = state_W[0] + np.cumsum(bounded(logits_T) - self.free)
        sums_T: Floats = free_T - np.minimum(np.minimum.accumulate(free_T), 0.0)
        return sums_T
