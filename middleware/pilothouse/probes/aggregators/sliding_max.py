"""The largest mean logit of any `window_tokens` tokens of a run that follow each other.

Shapes: as in `base`.

Windows that are not full do not count: the first of them would be single tokens. While a run has
fewer tokens than a window, the value is the mean of all of them, and it may still fall.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import Floats, register_aggregator, scored
from pilothouse.probes.aggregators.sliding_mean import SlidingMean
from pilothouse.types import Aggregate


@register_aggregator("sliding_max")
class SlidingMax(SlidingMean):
    """The largest mean of a full window, which is the last number of the state."""

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        self.best = self.state_width
        self.state_width += 1

    def start(self, count: int) -> Floats:
        states_NW = super().start(count)
        states_NW[:, self.best] = -np.inf
        return states_NW

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            self._best(state_W, logits_T)

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        super().step(state_BW, logits_B)
        full_B = state_BW[:, self.seen] >= self.window
        newest_B = np.where(full_B, self._newest(state_BW), -np.inf)
        np.maximum(state_BW[:, self.best], newest_B, out=state_BW[:, self.best])

    def value(self, state_BW: Floats) -> Floats:
        full_B = state_BW[:, self.seen] >= self.window
        best_B = np.where(full_B, state_BW[:, self.best], self._newest(state_BW))
        return scored(best_B + state_BW[:, self.lost])

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return self._best(state_W.copy(), logits_T) if logits_T.size else np.empty(0)

    def _best(self, state_W: Floats, logits_T: Floats) -> Floats:
        """Add a run, at least one token, and return the values after each."""
        short = max(self.window - 1 - int(state_W[self.seen]), 0)
        means_T = self._fold(state_W, scored(logits_T))
        bests_T = np.maximum.accumulate(np.append(state_W[self.best], means_T[short:]))
        state_W[self.best] = bests_T[-1]
        return np.concatenate([means_T[:short], bests_T[1:]])
