"""An aggregator makes one number of a run of token logits, however the run is cut.

Shapes: B requests, T tokens of one request in order, S tokens of several requests end to end, N
fresh states, W = state_width. States are float64. Any way of cutting a run into `fold`,
`fold_runs` and `step` calls gives what one call over the whole run gives, to 1e-5 relative.

A logit that is NaN or infinite counts as NaN. It makes the value NaN for good, except under
`last`, which knows the newest token only: what cannot be scored must not look like a low score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pilothouse.aggregate import TRAITS, AggregateTraits, allow_aggregate, parameter_faults
from pilothouse.errors import ConfigError
from pilothouse.types import Aggregate

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
LARGEST_LOGIT = 1e4
"""A probability is 0 or 1 to the last bit at a tenth of it."""


class Aggregator(ABC):
    """State per request is a row of `state_width` numbers; the object itself keeps none.

    A kind has to have `start`, `fold_runs` and `value`. The other methods do the same by means of
    these; a kind that is folded at every step of an engine writes a faster `step`.
    """

    state_width: int

    def __init__(self, aggregate: Aggregate) -> None:
        """Make the aggregator of what a manifest or a policy says."""
        self.aggregate = aggregate

    @abstractmethod
    def start(self, count: int) -> Floats:
        """Return states_NW in which no token was seen."""

    @abstractmethod
    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        """Add a run of tokens, at least one, to each request at once, in place.

        A fancy-indexed copy of states is the caller's to write back.
        """

    @abstractmethod
    def value(self, state_BW: Floats) -> Floats:
        """Return values_B in logits, NaN where no token was seen or one could not be scored."""

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        """Add one request's run of tokens, in place."""
        if logits_T.size:
            self.fold_runs(state_W[None], logits_T, np.array([logits_T.size]))

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        """Add one token to each request, in place; a copy of states is the caller's to write."""
        self.fold_runs(state_BW, logits_B, np.ones(len(logits_B), np.int64))

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        """Return values_T after each token of one request's run; the state stays as it is."""
        state_1W, values_T = state_W[None].copy(), np.empty(logits_T.size)
        for t in range(logits_T.size):
            self.step(state_1W, logits_T[t : t + 1])
            values_T[t] = self.value(state_1W)[0]
        return values_T


class OrderedAggregator(Aggregator):
    """A kind that keeps a window or a path: it writes `fold` and `step`, and runs are made of them.

    Of a batch of runs, as many tokens are stepped together as that saves; what then is left of
    the longer runs is folded one request at a time.
    """

    @abstractmethod
    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        """Add one request's run of tokens, in place."""

    @abstractmethod
    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        """Add one token to each request, in place; a copy of states is the caller's to write."""

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        firsts_B, lengths = firsts(counts_B), np.append(0, np.sort(counts_B))
        # The calls it takes to step so many tokens, and to fold each run that is longer.
        calls = lengths + np.arange(len(counts_B), -1, -1)
        together = int(lengths[np.argmin(calls)])
        for token in range(together):
            rows_A = np.flatnonzero(counts_B > token)
            state_AW = state_BW[rows_A]
            self.step(state_AW, logits_S[firsts_B[rows_A] + token])
            state_BW[rows_A] = state_AW
        for row in np.flatnonzero(counts_B > together).tolist():
            first, stop = int(firsts_B[row]) + together, int(firsts_B[row] + counts_B[row])
            self.fold(state_BW[row], logits_S[first:stop])


AGGREGATORS: dict[str, type[Aggregator]] = {}
Kind = TypeVar("Kind", bound=type[Aggregator])


def register_aggregator(kind: str, traits: AggregateTraits | None = None) -> Callable[[Kind], Kind]:
    """Return a decorator that adds a class under the name of its kind.

    Args:
        kind: The name that manifests and policies use.
        traits: What other rooms know of a kind that `pilothouse.aggregate` does not list.

    Raises:
        ConfigError: The kind is taken, or nothing says what its traits are.
    """
    if kind in AGGREGATORS:
        raise ConfigError(f"aggregate kind {kind!r} is registered twice; give one another name")
    if traits is not None:
        allow_aggregate(kind, traits)
    elif kind not in TRAITS:
        raise ConfigError(f"aggregate kind {kind!r}: got no traits; give some to the decorator")

    def add(made: Kind) -> Kind:
        AGGREGATORS[kind] = made
        return made

    return add


def make_aggregator(aggregate: Aggregate) -> Aggregator:
    """Return the aggregator of a readout or an ad-hoc signal.

    Raises:
        ConfigError: The kind is unknown, or a parameter is missing, out of range or without use.
    """
    kind = aggregate.kind
    if kind not in AGGREGATORS:
        raise ConfigError(f"aggregate: kind: got {kind!r}, want one of {sorted(AGGREGATORS)}")
    for each in parameter_faults(aggregate):
        raise ConfigError(
            where=f"aggregate: {each.parameter}", got=each.got, want=each.want, fix=each.fix
        )
    return AGGREGATORS[kind](aggregate)


def bounded(logits: Floats) -> Floats:
    """Return scored logits, none further from zero than `LARGEST_LOGIT`.

    Sums that are taken apart again stay exact to 1e-12, whatever one token said before.
    """
    return np.clip(scored(logits), -LARGEST_LOGIT, LARGEST_LOGIT)


def scored(logits: Floats) -> Floats:
    """Return logits with NaN for every one that is no finite number."""
    return np.where(np.isfinite(logits), logits, np.nan)


def highest(before: float, values_T: Floats) -> Floats:
    """Return the largest value so far after each token, beginning from one before them."""
    highest_T: Floats = np.maximum.accumulate(np.append(before, values_T))[1:]
    return highest_T


def firsts(counts_B: Counts) -> Counts:
    """Return where each run starts."""
    return np.cumsum(counts_B) - counts_B
