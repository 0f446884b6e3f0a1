"""From what an engine says to figures: effect, fluency, what is kept, how far sides lie apart.

Shape suffixes: N pairs, X neutral texts, Q questions, D width of the site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import Interval
from pilothouse.training.methods import Floats
from pilothouse.training.report import Figures
from pilothouse.training.scored_text import Said

FLOOR = 1e-6
"""Log-probabilities are float32: what is left of 1 may fall below its rounding."""
RESAMPLES = 2000
MOST = 1e6
"""The separation of sides that lie apart where neither varies."""


def coarse_kl(plain: Mapping[int, float], steered: Mapping[int, float]) -> float:
    """Return a lower bound on KL(plain || steered) in nats, from the likeliest tokens of each.

    Tokens that only `plain` lists get the steered probabilities that diverge least, of which none
    can be over the lowest that `steered` lists; all others count as one. Where both list the whole
    vocabulary it is the divergence itself.

    Args:
        plain: log-probabilities of the unsteered model, by token id.
        steered: those of the steered model.
    """
    shared = plain.keys() & steered.keys()
    listed = sum(math.exp(plain[each]) * (plain[each] - steered[each]) for each in shared)
    rest_steered = max(FLOOR, 1.0 - sum(math.exp(steered[each]) for each in shared))
    rest_plain = 1.0 - sum(math.exp(each) for each in plain.values())
    alone = [math.exp(plain[each]) for each in plain.keys() - shared]
    ceiling = math.exp(min(steered.values()))
    return max(0.0, listed + _least(alone, max(0.0, rest_plain), rest_steered, ceiling))


def _least(alone: Sequence[float], rest: float, mass: float, ceiling: float) -> float:
    """Return the least sum of p log(p / q) where the q of `alone` are capped and all sum to `mass`.

    Without caps q is in proportion to p; what caps take away goes to the others in proportion.
    """
    free: list[float] = list(alone)
    capped: list[float] = []
    while True:
        open_mass = max(FLOOR, mass - ceiling * len(capped))
        total = sum(free) + rest
        factor = open_mass / total if total > FLOOR else 1.0
        over = [p for p in free if p * factor > ceiling]
        if not over:
            break
        capped += over
        free = [p for p in free if p * factor <= ceiling]
    least = sum(p * math.log(p / ceiling) for p in capped)
    return least - total * math.log(factor) if total > FLOOR else least


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a model says under one steering: of both sides of pairs, of neutral texts, of questions.

    `right_Q` is whether the answer holds what was to be answered.
    """

    positives: Sequence[Said]
    negatives: Sequence[Said]
    neutral: Sequence[Said]
    right_Q: NDArray[np.bool_]

    @property
    def margins_N(self) -> Floats:
        """The mean log-probability of a token of the positive less that of the negative."""
        pairs = zip(self.positives, self.negatives, strict=True)
        return np.array([positive.mean - negative.mean for positive, negative in pairs])


def effects(plain: Heard, steered: Heard) -> Floats:
    """Return how far each pair's margin moved towards the positive, in nats a token."""
    return steered.margins_N - plain.margins_N


def figures(plain: Heard, steered: Heard) -> Figures:
    """Return the figures of one steering beside none."""
    effects_N = effects(plain, steered)
    return Figures(
        effect=float(effects_N.mean()),
        moved=float((effects_N > 0).mean()),
        perplexity_ratio=math.exp(min(_nll(steered.neutral) - _nll(plain.neutral), 700.0)),
        choices_kept=_kept(plain.neutral, steered.neutral),
        kl=_kl(plain.neutral, steered.neutral),
        facts_kept=_facts(plain.right_Q, steered.right_Q),
    )


def mean_interval(values_N: Floats, groups_N: Sequence[str], seed: int) -> Interval:
    """Return a mean with the percentile interval over resamples of whole groups, two-sided 95%."""
    names, group_N = np.unique(np.asarray(groups_N), return_inverse=True)
    generator = np.random.default_rng(seed)
    sums = np.bincount(group_N, values_N, len(names))
    sizes = np.bincount(group_N, minlength=len(names))
    drawn = generator.integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    estimate = float(values_N.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(
        estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate)
    )


def _nll(texts: Sequence[Said]) -> float:
    return -float(np.concatenate([each.log_probabilities_T for each in texts]).mean())


def _kept(plain: Sequence[Said], steered: Sequence[Said]) -> float | None:
    """Return the share of the model's own choices of tokens that still are its choices."""
    before = np.concatenate([each.is_first_T for each in plain])
    after = np.concatenate([each.is_first_T for each in steered])
    return float(after[before].mean()) if before.any() else None


def _kl(plain: Sequence[Said], steered: Sequence[Said]) -> float:
    found = [
        coarse_kl(one, other)
        for before, after in zip(plain, steered, strict=True)
        for one, other in zip(before.tops, after.tops, strict=True)
    ]
    return float(np.mean(found))


def _facts(before_Q: NDArray[np.bool_], after_Q: NDArray[np.bool_]) -> float | None:
    return float(after_Q[before_Q].mean()) if before_Q.any() else None


def separation(direction_D: Floats, positive_ND: Floats, negative_ND: Floats) -> float:
    """Return d': the gap between the sides' means along a direction, over their mean spread.

    Below 0 where the sides lie the other way round; at most `MOST` either way.
    """
    unit_D = direction_D / np.linalg.norm(direction_D)
    positive_N, negative_N = positive_ND @ unit_D, negative_ND @ unit_D
    gap = float(positive_N.mean() - negative_N.mean())
    spread = float(np.sqrt((positive_N.var() + negative_N.var()) / 2.0))
    least = abs(gap) / MOST
    return gap / max(spread, least) if gap else 0.0
