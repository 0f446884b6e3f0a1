"""The mean logit of a run, each token weighted by exp(logit / temperature).

Shapes: as in `base`.

A low temperature is near the largest logit, a high one near the mean.
Source: McKenzie et al. 2025, "Detecting High-Stakes Interactions with Activation Probes", whose
temperature is 5.
"""

from __future__ import annotations

import numpy as np

from pilothouse.probes.aggregators.base import (
    Aggregator,
    Counts,
    Floats,
    bounded,
    firsts,
    register_aggregator,
)
from pilothouse.types import Aggregate


@register_aggregator("softmax_mean")
class SoftmaxMean(Aggregator):
    """The weighted mean.

    State: the largest logit, the sum of weights relative to its own, and the weighted sum of how
    far below it logits are.
    """

    state_width = 3

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        assert aggregate.temperature is not None
        self.temperature = aggregate.temperature

    def start(self, count: int) -> Floats:
        return np.tile([-np.inf, 0.0, 0.0], (count, 1))

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        logits_S, firsts_B = bounded(logits_S), firsts(counts_B)
        self._raise(state_BW, np.maximum.reduceat(logits_S, firsts_B))
        below_S = np.repeat(state_BW[:, 0], counts_B) - logits_S
        weights_S = np.exp(-below_S / self.temperature)
        state_BW[:, 1] += np.add.reduceat(weights_S, firsts_B)
        state_BW[:, 2] += np.add.reduceat(weights_S * below_S, firsts_B)

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        logits_B = bounded(logits_B)
        self._raise(state_BW, logits_B)
        below_B = state_BW[:, 0] - logits_B
        weights_B = np.exp(-below_B / self.temperature)
        state_BW[:, 1] += weights_B
        state_BW[:, 2] += weights_B * below_B

    def value(self, state_BW: Floats) -> Floats:
        largest_B, weights_B, below_B = state_BW.T
        seen_B = weights_B != 0.0
        means_B = np.where(seen_B, largest_B, 0.0) - below_B / np.where(seen_B, weights_B, 1.0)
        return np.where(seen_B, means_B, np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        """In logarithms, below the largest of all: no token raises what came before it."""
        logits_T = bounded(logits_T)
        if not logits_T.size:
            return logits_T
        before, weights, below = state_W.tolist()
        largest = np.fmax(before, np.fmax.reduce(logits_T))
        begun = weights != 0.0
        raised, before = (largest - before, before) if begun else (0.0, 0.0)
        logs_2T = np.tile(np.append(before, logits_T) / self.temperature, (2, 1))
        with np.errstate(divide="ignore", invalid="ignore"):  # log 0 is -inf, and NaN stays NaN
            logs_2T[:, 0] += np.log([weights, below + raised * weights])
            logs_2T[1, 1:] += np.log(largest - logits_T)
            logs_2T = np.logaddexp.accumulate(logs_2T, axis=1)
        values_T: Floats = largest - np.exp(logs_2T[1, 1:] - logs_2T[0, 1:])
        return values_T

    def _raise(self, state_BW: Floats, largest_B: Floats) -> None:
        """Make the largest logit at least this, and what is relative to it the same as before."""
        largest_B = np.maximum(state_BW[:, 0], largest_B)
        begun_B = state_BW[:, 0] != -np.inf
        raised_B = np.where(begun_B, largest_B - state_BW[:, 0], 0.0)
        kept_B = np.exp(-raised_B / self.temperature)
        state_BW[:, 2] = kept_B * (state_BW[:, 2] + raised_B * state_BW[:, 1])
        state_BW[:, 1] *= kept_B
        state_BW[:, 0] = largest_B
