"""The exponential moving average of a run's logits.

Shapes: as in `base`; K blocks of m = EMA_BLOCK tokens, A rows that have tokens in a block.

An average starts at the first token (E_1 = s_1, then E_j = E_{j-1} + a (s_j - E_{j-1})): starting
at zero would mix in a logit that no token had. The half life h gives a = 1 - 2^(-1/h).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from pilothouse.probes.aggregators.base import (
    Aggregator,
    Counts,
    Floats,
    firsts,
    register_aggregator,
    scored,
)
from pilothouse.types import Aggregate

EMA_BLOCK = 128


@register_aggregator("ema_last")
class EmaLast(Aggregator):
    """The exponential moving average at the newest token.

    State: the average, and the gain of the next token: 1 until a token was seen, then `alpha`.
    """

    state_width = 2

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        assert aggregate.half_life_tokens is not None
        self.keep = 0.5 ** (1.0 / aggregate.half_life_tokens)
        self.alpha = 1.0 - self.keep

    def start(self, count: int) -> Floats:
        return np.tile([0.0, 1.0], (count, 1))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            state_W[0] = self._averages_T(state_W, scored(logits_T))[-1]
            state_W[1] = self.alpha

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        for rows_A, averages_Am, lengths_A in self._blocks(state_BW, logits_S, counts_B):
            state_BW[rows_A, 0] = averages_Am[np.arange(len(rows_A)), lengths_A - 1]
            state_BW[rows_A, 1] = self.alpha

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        average_B = state_BW[:, 0]
        average_B += state_BW[:, 1] * (scored(logits_B) - average_B)
        state_BW[:, 1] = self.alpha

    def value(self, state_BW: Floats) -> Floats:
        return np.where(state_BW[:, 1] < 1.0, state_BW[:, 0], np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        scored_T = scored(logits_T)
        lost = np.flatnonzero(np.isnan(scored_T))
        count = int(lost[0]) if len(lost) else len(scored_T)
        values_T = np.full(len(scored_T), np.nan)
        if count:
            values_T[:count] = self._averages_T(state_W, scored_T[:count])
        return values_T

    def _blocks(
        self, state_BW: Floats, logits_S: Floats, counts_B: Counts
    ) -> Iterator[tuple[Counts, Floats, Counts]]:
        """Yield block by block the rows that have tokens in it, averages, and how many tokens.

        The caller writes a block's last average into the state before it asks for the next.
        """
        scored_S, firsts_B = scored(logits_S), firsts(counts_B)
        for done in range(0, int(counts_B.max()), EMA_BLOCK):
            rows_A = np.flatnonzero(counts_B > done)
            lengths_A = np.minimum(counts_B[rows_A] - done, EMA_BLOCK)
            width = _next_power_of_two(int(lengths_A.max()))
            tokens_Am = (firsts_B[rows_A] + done)[:, None] + np.arange(width)
            theirs_Am = np.arange(width) < lengths_A[:, None]
            logits_Am = np.where(theirs_Am, scored_S[np.where(theirs_Am, tokens_Am, 0)], 0.0)
            known_A = state_BW[rows_A, 1] < 1.0
            before_A = np.where(known_A, state_BW[rows_A, 0], logits_Am[:, 0])
            averages_Am = logits_Am @ _block_mm(self.alpha, self.keep, width)
            averages_Am += before_A[:, None] * self.keep ** np.arange(1, width + 1)
            yield rows_A, averages_Am, lengths_A

    def _averages_T(self, state_W: Floats, logits_T: Floats) -> Floats:
        """Return the average after each token: one product per block, one number between blocks."""
        count = logits_T.size
        before = float(state_W[0] if state_W[1] < 1.0 else logits_T[0])
        width = min(EMA_BLOCK, count)
        padded = np.zeros(-(-count // width) * width)
        padded[:count] = logits_T
        averages_Km = padded.reshape(-1, width) @ _block_mm(self.alpha, self.keep, width)
        carries = []
        for end in averages_Km[:, -1].tolist():
            carries.append(before)
            before = before * self.keep**width + end
        averages_Km += np.outer(carries, self.keep ** np.arange(1, width + 1))
        flat: Floats = averages_Km.reshape(-1)[:count]
        return flat


def _next_power_of_two(count: int) -> int:
    """Round up, so that few widths of weights are ever made."""
    return 1 << (count - 1).bit_length()


@lru_cache(maxsize=64)
def _block_mm(alpha: float, keep: float, width: int) -> Floats:
    """Return weights: column t has those of logits 0..t in the average after t, begun at 0."""
    behind_mm = np.arange(width)[None, :] - np.arange(width)[:, None]
    weights_mm: Floats = np.where(behind_mm >= 0, alpha * keep ** np.maximum(behind_mm, 0), 0.0)
    weights_mm.setflags(write=False)
    return weights_mm
