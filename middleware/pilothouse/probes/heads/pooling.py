"""How a run of reads becomes one number, however the run is cut.

Shapes: B requests, T tokens of one request in order, S tokens of several requests end to end, R
reads of a token, W = state_width. States are float64. Any way of cutting a run into `step`,
`fold_run` and `fold_runs` calls gives what one call over the whole run gives, to 1e-5 relative.

A read that is NaN or infinite counts as NaN in all reads of its token. It makes what is pooled NaN
as long as the token bears on it: what cannot be scored must not look like a low score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Pooling(ABC):
    """State per request is a row of `state_width` numbers; the object itself keeps none."""

    num_reads: int
    state_width: int

    @abstractmethod
    def start(self, count: int) -> Floats:
        """Return states [count, W] in which no token was seen."""

    @abstractmethod
    def step(self, state_BW: Floats, reads_BR: Floats) -> None:
        """Add one token to each request, in place; a copy of states is the caller's to write."""

    @abstractmethod
    def value(self, state_BW: Floats) -> Floats:
        """Return values_B; NaN where no token was seen or one could not be scored."""

    @abstractmethod
    def fold_run(self, state_W: Floats, reads_TR: Floats) -> Floats:
        """Add one request's run of tokens, in place, and return values_T after each."""

    def fold_runs(self, state_BW: Floats, reads_SR: Floats, counts_B: Counts) -> Floats:
        """Add a run of tokens, at least one, to each request, in place; return values_S.

        Many short runs are stepped together, few long ones folded one by one.
        """
        values_S = np.empty(len(reads_SR))
        firsts_B = np.cumsum(counts_B) - counts_B
        if counts_B.max(initial=0) <= len(counts_B):
            for t in range(int(counts_B.max(initial=0))):
                on_B = np.flatnonzero(counts_B > t)
                states = state_BW[on_B]
                self.step(states, reads_SR[firsts_B[on_B] + t])
                state_BW[on_B] = states
                values_S[firsts_B[on_B] + t] = self.value(states)
            return values_S
        for b, (first, count) in enumerate(zip(firsts_B.tolist(), counts_B.tolist(), strict=True)):
            run = slice(first, first + count)
            values_S[run] = self.fold_run(state_BW[b], reads_SR[run])
        return values_S


def scored(reads_TR: Floats) -> Floats:
    """Return reads with NaN for every token of which one is no finite number."""
    if np.isfinite(reads_TR).all():
        return reads_TR
    return np.where(np.isfinite(reads_TR).all(axis=1, keepdims=True), reads_TR, np.nan)
