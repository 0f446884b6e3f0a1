"""Aggregators: a run of token logits becomes one number, however the run is cut.

Shapes: B requests, T tokens of one request in order, S tokens of several requests end to end, N
fresh states, W = state_width, K blocks of m = EMA_BLOCK tokens. States are float64. Any way of
cutting a run into `fold`, `fold_runs` and `step` calls gives what one call over the whole run
gives, to 1e-5 relative.

A logit that is NaN or infinite counts as NaN. It makes the value NaN for good, except under
`last`, which knows the newest token only: what cannot be scored must not look like a low score.

An EMA starts at the first token (E_1 = s_1, then E_j = E_{j-1} + a (s_j - E_{j-1})): starting at
zero would mix in a logit that no token had. The half life h gives a = 1 - 2^(-1/h).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import MAX_HALF_LIFE_TOKENS, MIN_HALF_LIFE_TOKENS
from pilothouse.errors import ConfigError
from pilothouse.types import Aggregate, AggregateKind

EMA_BLOCK = 128

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Aggregator(Protocol):
    """State per request is a row of `state_width` numbers; the object itself has none."""

    state_width: int

    def start(self, count: int) -> Floats:
        """States_NW in which no token was seen."""

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        """Add one request's run of tokens, in place."""

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        """Add a run of tokens, at least one, to each request at once, in place. A fancy-indexed
        copy is the caller's to write back.
        """

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        """Add one token to each request, in place. As with `fold_runs`, a copy is the caller's."""

    def value(self, state_BW: Floats) -> Floats:
        """values_B in logits; NaN where no token was seen or one could not be scored."""

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        """values_T after each token of one request's run; the state stays as it is."""


class Max:
    """The largest logit."""

    state_width = 1

    def start(self, count: int) -> Floats:
        return np.full((count, 1), -np.inf)

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            state_W[0] = np.maximum(state_W[0], _scored(logits_T).max())

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        highest_B = np.maximum.reduceat(_scored(logits_S), _firsts(counts_B))
        np.maximum(state_BW[:, 0], highest_B, out=state_BW[:, 0])

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        np.maximum(state_BW[:, 0], _scored(logits_B), out=state_BW[:, 0])

    def value(self, state_BW: Floats) -> Floats:
        return _scored(state_BW[:, 0])

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return _highest(state_W[0], _scored(logits_T))


class Mean:
    """The mean logit; state: sum, count."""

    state_width = 2

    def start(self, count: int) -> Floats:
        return np.zeros((count, 2))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        state_W[0] += _scored(logits_T).sum()
        state_W[1] += logits_T.size

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        state_BW[:, 0] += np.add.reduceat(_scored(logits_S), _firsts(counts_B))
        state_BW[:, 1] += counts_B

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        state_BW[:, 0] += _scored(logits_B)
        state_BW[:, 1] += 1.0

    def value(self, state_BW: Floats) -> Floats:
        sums_B, counts_B = state_BW[:, 0], state_BW[:, 1]
        return np.where(counts_B > 0, sums_B / np.maximum(counts_B, 1.0), np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        sums_T = state_W[0] + np.cumsum(_scored(logits_T))
        means_T: Floats = sums_T / (state_W[1] + np.arange(1, logits_T.size + 1))
        return means_T


class Last:
    """The newest logit."""

    state_width = 1

    def start(self, count: int) -> Floats:
        return np.full((count, 1), np.nan)

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            state_W[0] = _scored(logits_T[-1:])[0]

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        state_BW[:, 0] = _scored(logits_S[np.cumsum(counts_B) - 1])

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        state_BW[:, 0] = _scored(logits_B)

    def value(self, state_BW: Floats) -> Floats:
        return state_BW[:, 0].copy()

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:  # noqa: ARG002
        return _scored(logits_T)


class EmaLast:
    """The exponential moving average at the newest token.

    State: the average, and the gain of the next token: 1 until a token was seen, then `alpha`.
    """

    state_width = 2

    def __init__(self, half_life_tokens: float) -> None:
        self.alpha = 1.0 - 0.5 ** (1.0 / half_life_tokens)
        self.keep = 0.5 ** (1.0 / half_life_tokens)

    def start(self, count: int) -> Floats:
        return np.tile([0.0, 1.0], (count, 1))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            state_W[0] = self._averages_T(state_W, _scored(logits_T))[-1]
            state_W[1] = self.alpha

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        for rows_A, averages_Am, lengths_A in self._blocks(state_BW, logits_S, counts_B):
            state_BW[rows_A, 0] = averages_Am[np.arange(len(rows_A)), lengths_A - 1]
            state_BW[rows_A, 1] = self.alpha

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        average_B = state_BW[:, 0]
        average_B += state_BW[:, 1] * (_scored(logits_B) - average_B)
        state_BW[:, 1] = self.alpha

    def value(self, state_BW: Floats) -> Floats:
        return np.where(state_BW[:, 1] < 1.0, state_BW[:, 0], np.nan)

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        scored_T = _scored(logits_T)
        lost = np.flatnonzero(np.isnan(scored_T))
        count = int(lost[0]) if len(lost) else len(scored_T)
        values_T = np.full(len(scored_T), np.nan)
        if count:
            values_T[:count] = self._averages_T(state_W, scored_T[:count])
        return values_T

    def _blocks(
        self, state_BW: Floats, logits_S: Floats, counts_B: Counts
    ) -> Iterator[tuple[Counts, Floats, Counts]]:
        """Block by block of all requests: who has one, averages in it, how much of it is theirs.

        The caller puts a block's last average into the state before it asks for the next.
        """
        scored_S, firsts_B = _scored(logits_S), _firsts(counts_B)
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
        """The average after each token: within blocks one product, between them one number."""
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


class EmaMax(EmaLast):
    """The largest value that the exponential moving average has had; state: and that value."""

    state_width = 3

    def start(self, count: int) -> Floats:
        return np.tile([0.0, 1.0, -np.inf], (count, 1))

    def fold(self, state_W: Floats, logits_T: Floats) -> None:
        if logits_T.size:
            averages_T = self._averages_T(state_W, _scored(logits_T))
            state_W[:] = averages_T[-1], self.alpha, np.maximum(state_W[2], averages_T.max())

    def fold_runs(self, state_BW: Floats, logits_S: Floats, counts_B: Counts) -> None:
        for rows_A, averages_Am, lengths_A in self._blocks(state_BW, logits_S, counts_B):
            theirs_Am = np.arange(averages_Am.shape[1]) < lengths_A[:, None]
            highest_A = np.where(theirs_Am, averages_Am, -np.inf).max(axis=1)
            state_BW[rows_A, 0] = averages_Am[np.arange(len(rows_A)), lengths_A - 1]
            state_BW[rows_A, 1] = self.alpha
            state_BW[rows_A, 2] = np.maximum(state_BW[rows_A, 2], highest_A)

    def step(self, state_BW: Floats, logits_B: Floats) -> None:
        super().step(state_BW, logits_B)
        np.maximum(state_BW[:, 2], state_BW[:, 0], out=state_BW[:, 2])

    def value(self, state_BW: Floats) -> Floats:
        return _scored(state_BW[:, 2])

    def running(self, state_W: Floats, logits_T: Floats) -> Floats:
        return _highest(state_W[2], super().running(state_W, logits_T))


AGGREGATORS: dict[AggregateKind, Callable[[Aggregate], Aggregator]] = {}


def register(kind: AggregateKind, make: Callable[[Aggregate], Aggregator]) -> None:
    """Add a kind.

    Raises:
        ConfigError: the kind is taken.
    """
    if kind in AGGREGATORS:
        raise ConfigError(f"aggregate kind {kind!r} is registered twice; give one another name")
    AGGREGATORS[kind] = make


def make_aggregator(aggregate: Aggregate) -> Aggregator:
    """The aggregator of a readout or an ad-hoc signal.

    Raises:
        ConfigError: an unknown kind, or a half life missing, out of range or without use.
    """
    if aggregate.kind not in AGGREGATORS:
        raise ConfigError(
            f"aggregate: kind: got {aggregate.kind!r}, want one of {sorted(AGGREGATORS)}"
        )
    return AGGREGATORS[aggregate.kind](aggregate)


def _without_half_life(make: Callable[[], Aggregator]) -> Callable[[Aggregate], Aggregator]:
    def made(aggregate: Aggregate) -> Aggregator:
        if aggregate.half_life_tokens is not None:
            raise ConfigError(
                f"aggregate: half_life_tokens: got {aggregate.half_life_tokens} with kind "
                f"{aggregate.kind!r}, which has none; remove it, or take ema_max or ema_last"
            )
        return make()

    return made


def _with_half_life(make: Callable[[float], Aggregator]) -> Callable[[Aggregate], Aggregator]:
    def made(aggregate: Aggregate) -> Aggregator:
        half_life = aggregate.half_life_tokens
        if half_life is None or not MIN_HALF_LIFE_TOKENS <= half_life <= MAX_HALF_LIFE_TOKENS:
            raise ConfigError(
                f"aggregate: half_life_tokens: got {half_life} with kind {aggregate.kind!r}, want "
                f"a number from {MIN_HALF_LIFE_TOKENS} to {MAX_HALF_LIFE_TOKENS:g}"
            )
        return make(half_life)

    return made


register("max", _without_half_life(Max))
register("mean", _without_half_life(Mean))
register("last", _without_half_life(Last))
register("ema_max", _with_half_life(EmaMax))
register("ema_last", _with_half_life(EmaLast))


def _scored(logits: Floats) -> Floats:
    return np.where(np.isfinite(logits), logits, np.nan)


def _highest(before: float, values_T: Floats) -> Floats:
    highest_T: Floats = np.maximum.accumulate(np.append(before, values_T))[1:]
    return highest_T


def _firsts(counts_B: Counts) -> Counts:
    """Where each run starts."""
    return np.cumsum(counts_B) - counts_B


def _next_power_of_two(count: int) -> int:
    """So that few widths of weights are ever made."""
    return 1 << (count - 1).bit_length()


@lru_cache(maxsize=64)
def _block_mm(alpha: float, keep: float, width: int) -> Floats:
    """Column t has the weights of logits 0..t in the average after logit t, started at 0."""
    behind_mm = np.arange(width)[None, :] - np.arange(width)[:, None]
    weights_mm: Floats = np.where(behind_mm >= 0, alpha * keep ** np.maximum(behind_mm, 0), 0.0)
    weights_mm.setflags(write=False)
    return weights_mm
