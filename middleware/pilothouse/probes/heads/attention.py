"""Attention over a run: what each head sees of each token, weighted by how much it looks there.

With a = <q_h, x_t> and u = <v_h, x_t>, the value is the sum over heads of
sum_t e^a u / sum_t e^a (Building Production-Ready Probes for Gemini, arXiv 2601.11516). The state
is the one of a streamed softmax: the largest a so far, and both sums in units of its exponential.

Shapes: as in `base` and `pooling`; H heads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.heads.base import ProbeHead, Tensors, register_head
from pilothouse.probes.heads.pooling import Floats, Pooling, scored

RANGE = 600.0
"""How far below the largest a token's exponential is still a number in float64, with room."""
BLOCK = 256
"""Tokens that are folded at once, so that one far from all others costs no more than these."""


class SoftmaxPooling(Pooling):
    """State: the largest a, the sum of e^a and that of e^a u of each head.

    Reads: a of every head, then u of every head.
    """

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.num_reads = 2 * heads
        self.state_width = 3 * heads

    def start(self, count: int) -> Floats:
        return np.tile(np.repeat([-np.inf, 0.0, 0.0], self.heads), (count, 1))

    def step(self, state_BW: Floats, reads_BR: Floats) -> None:
        heads, reads_BR = self.heads, scored(reads_BR)
        asked_BH, seen_BH = reads_BR[:, :heads], reads_BR[:, heads:]
        top_BH = np.maximum(state_BW[:, :heads], asked_BH)
        with np.errstate(invalid="ignore"):
            kept_BH = np.exp(state_BW[:, :heads] - top_BH)
            weight_BH = np.exp(asked_BH - top_BH)
        state_BW[:, :heads] = top_BH
        state_BW[:, heads : 2 * heads] *= kept_BH
        state_BW[:, heads : 2 * heads] += weight_BH
        state_BW[:, 2 * heads :] *= kept_BH
        state_BW[:, 2 * heads :] += weight_BH * seen_BH

    def value(self, state_BW: Floats) -> Floats:
        heads = self.heads
        with np.errstate(invalid="ignore"):
            means_BH = state_BW[:, 2 * heads :] / state_BW[:, heads : 2 * heads]
        values_B: Floats = means_BH.sum(axis=1)
        return values_B

    def fold_run(self, state_W: Floats, reads_TR: Floats) -> Floats:
        pieces = [
            self._fold_block(state_W, scored(reads_TR[start : start + BLOCK]))
            for start in range(0, len(reads_TR), BLOCK)
        ]
        return np.concatenate([np.empty(0), *pieces])

    def _fold_block(self, state_W: Floats, reads_TR: Floats) -> Floats:
        heads = self.heads
        asked_TH, seen_TH = reads_TR[:, :heads], reads_TR[:, heads:]
        top_H = np.maximum(state_W[:heads], asked_TH.max(axis=0))
        # The largest so far must not be lost beside the largest of the block while it is the
        # largest. A NaN fails this too: it must not reach the tokens before it.
        if not (top_H - np.maximum(state_W[:heads], asked_TH[0]) < RANGE).all():
            return self._fold_far_apart(state_W, asked_TH, seen_TH)
        kept_H = np.exp(state_W[:heads] - top_H)
        weight_TH = np.exp(asked_TH - top_H)
        sums_TH = np.cumsum(weight_TH, axis=0) + state_W[heads : 2 * heads] * kept_H
        seen_sums_TH = np.cumsum(weight_TH * seen_TH, axis=0) + state_W[2 * heads :] * kept_H
        state_W[:] = np.concatenate([top_H, sums_TH[-1], seen_sums_TH[-1]])
        values_T: Floats = (seen_sums_TH / sums_TH).sum(axis=1)
        return values_T

    def _fold_far_apart(self, state_W: Floats, asked_TH: Floats, seen_TH: Floats) -> Floats:
        """Fold a run over whose largest a others underflow: sums as logarithms, by their signs."""
        heads = self.heads
        top_H, sum_H, seen_H = state_W[:heads], state_W[heads : 2 * heads], state_W[2 * heads :]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs_TH = _accumulated(top_H + np.log(sum_H), asked_TH)
            plus_TH = _accumulated(
                top_H + np.log(np.maximum(seen_H, 0.0)), asked_TH + np.log(np.maximum(seen_TH, 0.0))
            )
            minus_TH = _accumulated(
                top_H + np.log(np.maximum(-seen_H, 0.0)),
                asked_TH + np.log(np.maximum(-seen_TH, 0.0)),
            )
            means_TH = np.exp(plus_TH - logs_TH) - np.exp(minus_TH - logs_TH)
            top_H = np.maximum(top_H, asked_TH.max(axis=0))
            sum_H = np.exp(logs_TH[-1] - top_H)
        state_W[:] = np.concatenate([top_H, sum_H, means_TH[-1] * sum_H])
        values_T: Floats = means_TH.sum(axis=1)
        return values_T


def _accumulated(before_H: Floats, logs_TH: Floats) -> Floats:
    """Return the logarithm of the sum of exponentials after each token."""
    whole_TH: Floats = np.logaddexp.accumulate(np.vstack([before_H, logs_TH]), axis=0)
    return whole_TH[1:]


@register_head("attention")
class Attention(ProbeHead):
    """Rows of queries, then of values."""

    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        return np.concatenate([tensors["queries"], tensors["values"]], axis=1)

    def pooling(self) -> Pooling:
        assert self.head.heads is not None
        return SoftmaxPooling(self.head.heads)
