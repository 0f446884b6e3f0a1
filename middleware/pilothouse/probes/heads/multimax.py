"""MultiMax: the largest that each head has seen of any token, added up.

The value is the sum over heads of max_t <v_h, x_t> (Building Production-Ready Probes for Gemini,
arXiv 2601.11516). It never falls, so that a rule that fired would fire again, and its false
positives grow with length.

Shapes: as in `base` and `pooling`; H heads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.heads.base import ProbeHead, Tensors, register_head
from pilothouse.probes.heads.pooling import Floats, Pooling, scored


class MaxPooling(Pooling):
    """State: the largest of each head. Reads: what each head sees."""

    def __init__(self, heads: int) -> None:
        self.num_reads = self.state_width = heads

    def start(self, count: int) -> Floats:
        return np.full((count, self.state_width), -np.inf)

    def step(self, state_BW: Floats, reads_BR: Floats) -> None:
        np.maximum(state_BW, scored(reads_BR), out=state_BW)

    def value(self, state_BW: Floats) -> Floats:
        return _summed(state_BW)

    def fold_run(self, state_W: Floats, reads_TR: Floats) -> Floats:
        if not len(reads_TR):
            return np.empty(0)
        highest_TR = np.maximum.accumulate(np.vstack([state_W, scored(reads_TR)]), axis=0)[1:]
        state_W[:] = highest_TR[-1]
        return _summed(highest_TR)


def _summed(highest_BH: Floats) -> Floats:
    """Return sums over heads; NaN where no token was seen."""
    sums_B = highest_BH.sum(axis=1)
    return np.where(np.isfinite(sums_B), sums_B, np.nan)


@register_head("multimax")
class MultiMax(ProbeHead):
    """Rows of values."""

    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        return tensors["values"]

    def pooling(self) -> Pooling:
        assert self.head.heads is not None
        return MaxPooling(self.head.heads)
