"""The largest value that the exponential moving average has had.

Shapes: as in `base`; A rows that have a block, m tokens of it.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Counts,
    Floats,
    highest,
    register_aggregator,
    scored,
)
from pilothouse.probes.aggregators.ema_last import EmaLast


@register_aggregator("ema_max")
class EmaMax(EmaLast):
    """The largest value that the average has had, which is the last number of the state."""

    state_width = 3

    def start(self, count: int) -> Floats:
        return np.tile([0.0, 1.0, -np.inf], (count, 1))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            averages_T = self._averages_T(state_W, scored(logits_T))
            state_W[:] = averages_T[-1], self.alpha, np.maximum(state_W[2], averages_T.max())

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        for rows_A, averages_Am, lengths_A in self._blocks(state_BW, logits_S, counts_B):
            theirs_Am = np.arange(averages_Am.shape[1]) < lengths_A[:, None]
            highest_A = np.where(theirs_Am, averages_Am, -np.inf).max(axis=1)
            state_BW[rows_A, 0] = averages_Am[np.arange(len(rows_A)), lengths_A - 1]
            state_BW[rows_A, 1] = self.alpha
            state_BW[rows_A, 2] = np.maximum(state_BW[rows_A, 2], highest_A)

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        super().step(state_BW, logits_B)
        np.maximum(state_BW[:, 2], state_BW[:, 0], out=state_BW[:, 2])

    def value(self, state_BW: Floats) -> Floats:
        return scored(state_BW[:, 2])

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return highest(state_W[2], super().running(state_W, logits_T))
