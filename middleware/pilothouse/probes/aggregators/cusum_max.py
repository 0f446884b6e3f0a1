"""The largest value that the cumulative sum of `cusum_last` has had.

Shapes: as in `base`.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import Floats, highest, register_aggregator
from pilothouse.probes.aggregators.cusum_last import CusumLast


@register_aggregator("cusum_max")
class CusumMax(CusumLast):
    """The largest sum, which is the last number of the state."""

    state_width = 3

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            sums_T = self._sums_T(state_W, logits_T)
            state_W[0] = sums_T[-1]
            state_W[1] += logits_T.size
            state_W[2] = np.maximum(state_W[2], sums_T.max())

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        super().step(state_BW, logits_B)
        np.maximum(state_BW[:, 2], state_BW[:, 0], out=state_BW[:, 2])

    def value(self, state_BW: Floats) -> Floats:
        return np.where(state_BW[:, 1] > 0.0, state_BW[:, 2], np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return highest(state_W[2], super().running(state_W, logits_T))
