"""The largest attention-weighted mean over any window of tokens.

With a = <q_h, x_t> and u = <v_h, x_t>, head h has at each token the mean of u over the last w
tokens, weighted by e^a; the first windows are short. `sum_then_max` is the largest that the sum
over heads has been, `max_then_sum` the sum of the largest that each head has had (Building
Production-Ready Probes for Gemini, arXiv 2601.11516). The second is an upper bound of the first.

Shapes: as in `base` and `pooling`; H heads, w tokens of a window.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pilothouse.probes.heads.base import ProbeHead, Tensors, register_head
from pilothouse.probes.heads.pooling import Floats, Pooling, scored
from pilothouse.types import WindowOrder

MOST_WINDOWS = 1 << 18
"""Numbers of windows that are held at once."""


class RollingPooling(Pooling):
    """State: reads of the last w - 1 tokens, oldest first, and the largest so far.

    Reads: a of every head, then u of every head. Of a token that never was a is -inf.
    """

    def __init__(self, heads: int, window: int, order: WindowOrder) -> None:
        self.heads, self.window, self.order = heads, window, order
        self.num_reads = 2 * heads
        self._kept = (window - 1) * self.num_reads
        self.state_width = self._kept + (1 if order == "sum_then_max" else heads)

    def start(self, count: int) -> Floats:
        nobody = np.repeat([-np.inf, 0.0], self.heads)
        largest = np.full(self.state_width - self._kept, -np.inf)
        return np.tile(np.concatenate([np.tile(nobody, self.window - 1), largest]), (count, 1))

    def step(self, state_BW: Floats, reads_BR: Floats) -> None:
        kept = self._kept
        windows_BN = np.concatenate([state_BW[:, :kept], scored(reads_BR)], axis=1)
        windows_BwR = windows_BN.reshape(len(state_BW), self.window, self.num_reads)
        largest_BM = state_BW[:, kept:]
        np.maximum(largest_BM, self._means(windows_BwR), out=largest_BM)
        state_BW[:, :kept] = windows_BN[:, self.num_reads :]

    def value(self, state_BW: Floats) -> Floats:
        sums_B = state_BW[:, self._kept :].sum(axis=1)
        return np.where(np.isfinite(sums_B), sums_B, np.nan)

    def fold_run(self, state_W: Floats, reads_TR: Floats) -> Floats:
        most = max(1, MOST_WINDOWS // (self.window * self.num_reads))
        pieces = [
            self._fold_piece(state_W, scored(reads_TR[start : start + most]))
            for start in range(0, len(reads_TR), most)
        ]
        return np.concatenate([np.empty(0), *pieces])

    def _fold_piece(self, state_W: Floats, reads_TR: Floats) -> Floats:
        kept = self._kept
        before_wR = state_W[:kept].reshape(self.window - 1, self.num_reads)
        whole_NR = np.vstack([before_wR, reads_TR])
        windows_TwR = sliding_window_view(whole_NR, self.window, axis=0).swapaxes(1, 2)
        means_TM = np.vstack([state_W[kept:], self._means(windows_TwR)])
        largest_TM = np.maximum.accumulate(means_TM, axis=0)[1:]
        state_W[:kept] = whole_NR[len(reads_TR) :].reshape(-1)
        state_W[kept:] = largest_TM[-1]
        values_T: Floats = largest_TM.sum(axis=1)
        return values_T

    def _means(self, windows_BwR: Floats) -> Floats:
        """Return what is compared over time: means of each head, or their sum."""
        asked_BwH, seen_BwH = windows_BwR[..., : self.heads], windows_BwR[..., self.heads :]
        weight_BwH = np.exp(asked_BwH - asked_BwH.max(axis=1, keepdims=True))
        means_BH: Floats = (weight_BwH * seen_BwH).sum(axis=1) / weight_BwH.sum(axis=1)
        return means_BH.sum(axis=1, keepdims=True) if self.order == "sum_then_max" else means_BH


@register_head("rolling_attention")
class RollingAttention(ProbeHead):
    """Rows of queries, then of values."""

    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        return np.concatenate([tensors["queries"], tensors["values"]], axis=1)

    def pooling(self) -> Pooling:
        head = self.head
        assert head.heads is not None
        assert head.window is not None
        assert head.order is not None
        return RollingPooling(head.heads, head.window, head.order)
