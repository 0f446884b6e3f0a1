"""The logarithm of the sum of exp(logit / temperature) over a run, times the temperature.

Shapes: as in `base`.

It is a sum and no mean: n tokens alike stand temperature * ln(n) above one of them, and further
tokens only ever raise it. The largest logit is below it by at most that.
"""

from __future__ import annotations

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


@register_aggregator("log_sum_exp")
class LogSumExp(Aggregator):
    """The logarithm of the sum; state: that, in temperatures."""

    state_width = 1

    def __init__(self, aggregate: Aggregate) -> None:
        super().__init__(aggregate)
        assert aggregate.temperature is not None
        self.temperature = aggregate.temperature

    def start(self, count: int) -> Floats:
        return np.full((count, 1), -np.inf)

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        with np.errstate(invalid="ignore"):  # NaN stays NaN, and is no news
            sums_B = np.logaddexp.reduceat(self._terms(logits_S), firsts(counts_B))
            state_BW[:, 0] = np.logaddexp(state_BW[:, 0], sums_B)

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        with np.errstate(invalid="ignore"):
            state_BW[:, 0] = np.logaddexp(state_BW[:, 0], self._terms(logits_B))

    def value(self, state_BW: Floats) -> Floats:
        return scored(self._logits(state_BW[:, 0]))

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            sums_T = np.logaddexp.accumulate(np.append(state_W[0], self._terms(logits_T)))
        return self._logits(sums_T[1:])

    def _terms(self, logits_S: Floats) -> Floats:
        """Return the logarithm of what each token adds."""
        return scored(logits_S) / self.temperature

    def _logits(self, sums_B: Floats) -> Floats:
        """Return values of sums of at least one token."""
        return sums_B * self.temperature
