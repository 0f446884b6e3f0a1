"""The logit of the chance that at least one token of a run is positive, if tokens are independent.

Shapes: as in `base`.

A token is positive with probability p = sigmoid(logit), and the chance is 1 - prod(1 - p). Its
logit is ln(exp(A) - 1), where A = sum(ln(1 + exp(logit))) is what the state holds, as ln A: a run
of one token has that token's logit, and logits far below zero are not lost.
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
    scored,
)

BOTH_ENDS_ALIKE = 36.0
"""Below -this A = exp(logit), and above it A = logit, to the last bit."""


@register_aggregator("noisy_or")
class NoisyOr(Aggregator):
    """The logit of the chance; state: ln A."""

    state_width = 1

    def start(self, count: int) -> Floats:
        return np.full((count, 1), -np.inf)

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        with np.errstate(invalid="ignore"):  # NaN stays NaN, and is no news
            sums_B = np.logaddexp.reduceat(_terms(logits_S), firsts(counts_B))
            state_BW[:, 0] = np.logaddexp(state_BW[:, 0], sums_B)

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        with np.errstate(invalid="ignore"):
            state_BW[:, 0] = np.logaddexp(state_BW[:, 0], _terms(logits_B))

    def value(self, state_BW: Floats) -> Floats:
        return _logits(state_BW[:, 0])

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            sums_T = np.logaddexp.accumulate(np.append(state_W[0], _terms(logits_T)))
        return _logits(sums_T[1:])


def _terms(logits_S: Floats) -> Floats:
    """Return ln(ln(1 + exp(logit)))."""
    logits_S = bounded(logits_S)
    near_S = np.maximum(logits_S, -BOTH_ENDS_ALIKE)
    terms_S: Floats = np.log(np.logaddexp(0.0, near_S)) + np.minimum(
        logits_S + BOTH_ENDS_ALIKE, 0.0
    )
    return terms_S


def _logits(sums_B: Floats) -> Floats:
    """Return ln(exp(A) - 1) for ln A; NaN where no token was seen or one was not scored."""
    near_B = np.exp(np.clip(sums_B, -BOTH_ENDS_ALIKE, np.log(BOTH_ENDS_ALIKE)))
    logits_B = np.log(np.expm1(near_B)) + np.minimum(sums_B + BOTH_ENDS_ALIKE, 0.0)
    many_B = sums_B > np.log(BOTH_ENDS_ALIKE)
    return scored(np.where(many_B, np.exp(sums_B), logits_B))
