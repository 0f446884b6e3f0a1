"""The mean logit of a run's last `window_tokens` tokens, or of all while there are fewer.

Shapes: as in `base`; N = window_tokens, K blocks of N tokens.

A run is laid out in blocks of N tokens. A window is the beginning of the newest block and the end
of the one before it, so its sum is a sum from that block's start and one to the other's end:
nothing is ever subtracted, and what a huge logit took from a sum is whole again once it is past.
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


@register_aggregator("sliding_mean")
class SlidingMean(OrderedAggregator):
    """The mean of the newest window.

    State: the newest block's logits, behind them what is left of the last block's sums to its end;
    then how many tokens were seen, the newest block's sum, and NaN if one could not be scored.
    """

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        assert aggregate.window_tokens is not None
        self.window = aggregate.window_tokens
        self.seen, self.sum, self.lost = range(self.window, self.window + 3)
        self.state_width = self.window + 3

    def start(self, count: int) -> Floats:
        return np.zeros((count, self.state_width))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            self._fold(state_W, scored(logits_T))

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        logits_B = scored(logits_B)
        slots_B = (state_BW[:, self.seen] % self.window).astype(np.int64)
        sums_B = np.where(slots_B > 0, state_BW[:, self.sum], 0.0)
        state_BW[:, self.sum] = sums_B + logits_B
        state_BW[np.arange(len(state_BW)), slots_B] = logits_B
        state_BW[:, self.seen] += 1.0
        state_BW[:, self.lost] += 0.0 * logits_B
        full_A = np.flatnonzero(slots_B == self.window - 1)
        if len(full_A):
            state_BW[full_A, : self.window] = _to_the_end(state_BW[full_A, : self.window])

    def value(self, state_BW: Floats) -> Floats:
        return self._newest(state_BW) + state_BW[:, self.lost]

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return self._fold(state_W.copy(), scored(logits_T)) if logits_T.size else np.empty(0)

    def _newest(self, state_BW: Floats) -> Floats:
        """Return the mean of the newest window, NaN where no token was seen."""
        seen_B = state_BW[:, self.seen]
        slots_B = (seen_B % self.window).astype(np.int64)
        before_B = np.where(slots_B > 0, state_BW[np.arange(len(state_BW)), slots_B], 0.0)
        counts_B = np.minimum(seen_B, self.window)
        means_B = (state_BW[:, self.sum] + before_B) / np.maximum(counts_B, 1.0)
        return np.where(seen_B > 0, means_B, np.nan)

    def _fold(self, state_W: Floats, logits_T: Floats) -> Floats:
        """Add a run, at least one token, and return the mean of the newest window after each."""
        size, seen = self.window, int(state_W[self.seen])
        begin = seen % size
        count = begin + len(logits_T)
        flat = np.zeros(-(-count // size) * size)
        flat[:begin], flat[begin:count] = state_W[:begin], logits_T
        blocks_KN = flat.reshape(-1, size)
        sums_KN, ends_KN = np.cumsum(blocks_KN, axis=1), _to_the_end(blocks_KN)
        before_KN = np.vstack([state_W[None, :size], ends_KN[:-1]])
        windows_KN = sums_KN.copy()
        windows_KN[:, :-1] += before_KN[:, 1:]
        counts_T = np.minimum(seen + np.arange(1, len(logits_T) + 1), size)
        lost_T = state_W[self.lost] + 0.0 * np.cumsum(logits_T)
        means_T: Floats = windows_KN.reshape(-1)[begin:count] / counts_T + lost_T
        filled = count - (len(blocks_KN) - 1) * size
        state_W[:filled] = blocks_KN[-1, :filled] if filled < size else ends_KN[-1]
        state_W[filled:size] = before_KN[-1, filled:]
        state_W[self.seen] = seen + len(logits_T)
        state_W[self.sum] = sums_KN[-1, filled - 1]
        state_W[self.lost] = lost_T[-1]
        return means_T


def _to_the_end(blocks_KN: Floats) -> Floats:
    """Return of each token the sum from it to its block's end."""
    sums_KN: Floats = blocks_KN[:, ::-1].cumsum(axis=1)[:, ::-1]
    return sums_KN
