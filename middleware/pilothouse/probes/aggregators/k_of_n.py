"""An alarm that k of the last `window_tokens` tokens raise, and that fewer keep up.

Shapes: as in `base`; N = window_tokens.

While it is off, tokens with logit >= on_logit count, and k of them raise it. While it is on, those
with logit >= off_logit count, and it ends where fewer than k do. The value is how many tokens count
less k, plus one half: above zero exactly while the alarm is on, and no token is ever on the line.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Counts,
    Floats,
    OrderedAggregator,
    register_aggregator,
    scored,
)
from pilothouse.types import Aggregate


@register_aggregator("k_of_n")
class KOfN(OrderedAggregator):
    """The alarm.

    State: of each token of the window how many of the two levels it reaches, in a ring; then how
    many tokens were seen, how many of the window reach one level and both, whether the alarm is on,
    and NaN if a token could not be scored.
    """

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        assert aggregate.k_tokens is not None
        assert aggregate.window_tokens is not None
        assert aggregate.on_logit is not None
        assert aggregate.off_logit is not None
        self.k, self.window = aggregate.k_tokens, aggregate.window_tokens
        self.levels = np.array([aggregate.off_logit, aggregate.on_logit])
        self.seen, self.low, self.high, self.on, self.lost = range(self.window, self.window + 5)
        self.state_width = self.window + 5

    def start(self, count: int) -> Floats:
        return np.zeros((count, self.state_width))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            self._fold(state_W, scored(logits_T))

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        logits_B = scored(logits_B)
        rows_B = np.arange(len(state_BW))
        slots_B = (state_BW[:, self.seen] % self.window).astype(np.int64)
        reached_B, gone_B = self._reached(logits_B), state_BW[rows_B, slots_B]
        state_BW[rows_B, slots_B] = reached_B
        state_BW[:, self.seen] += 1.0
        state_BW[:, self.low] += (reached_B >= 1.0).astype(float) - (gone_B >= 1.0)
        state_BW[:, self.high] += (reached_B >= 2.0).astype(float) - (gone_B >= 2.0)
        state_BW[:, self.on] = self._counting(state_BW) >= self.k
        state_BW[:, self.lost] += 0.0 * logits_B

    def value(self, state_BW: Floats) -> Floats:
        values_B = self._counting(state_BW) - self.k + 0.5 + state_BW[:, self.lost]
        return np.where(state_BW[:, self.seen] > 0.0, values_B, np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return self._fold(state_W.copy(), scored(logits_T)) if logits_T.size else np.empty(0)

    def _reached(self, logits_T: Floats) -> Floats:
        """Return of each token how many of the two levels it reaches, 0 for an unscored one."""
        reached_T: Floats = (logits_T[:, None] >= self.levels).sum(axis=1).astype(float)
        return reached_T

    def _counting(self, state_BW: Floats) -> Floats:
        """Return how many tokens count, as the alarm stands."""
        return np.where(state_BW[:, self.on] > 0.0, state_BW[:, self.low], state_BW[:, self.high])

    def _fold(self, state_W: Floats, logits_T: Floats) -> Floats:
        """Add a run, at least one token, and return the values after each."""
        size, seen, count = self.window, int(state_W[self.seen]), len(logits_T)
        ring_N = (seen + np.arange(size)) % size
        # In order, the oldest first; what was never seen reaches nothing.
        reached_M = np.concatenate([state_W[ring_N], self._reached(logits_T)])
        low_T, high_T = (_in_windows(reached_M >= level, size) for level in (1.0, 2.0))
        raised_T, kept_T = high_T >= self.k, low_T >= self.k
        # The alarm is as the newest token left it that raised or ended it.
        decided_T = np.where(raised_T | ~kept_T, np.arange(count), -1)
        newest_T = np.maximum.accumulate(decided_T)
        on_T = np.where(newest_T >= 0, raised_T[newest_T], state_W[self.on] > 0.0)
        lost_T = state_W[self.lost] + 0.0 * np.cumsum(logits_T)
        state_W[(ring_N + count) % size] = reached_M[-size:]
        state_W[size:] = seen + count, low_T[-1], high_T[-1], on_T[-1], lost_T[-1]
        values_T: Floats = np.where(on_T, low_T, high_T) - self.k + 0.5 + lost_T
        return values_T


def _in_windows(flags_M: np.ndarray, size: int) -> Counts:
    """Return how many flags are set in the window that ends at each token behind the first N."""
    sums_M = np.cumsum(flags_M, dtype=np.int64)
    return sums_M[size:] - sums_M[:-size]
