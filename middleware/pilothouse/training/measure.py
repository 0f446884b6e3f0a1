"""From what an engine says to figures: effect, fluency, what is kept.

Shape suffixes: N pairs, X neutral texts, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import Interval
from pilothouse.training.divergence import coarse_kl
from pilothouse.training.report import Figures
from pilothouse.training.sample import Floats
from pilothouse.training.scored_text import Said

RESAMPLES = 2000


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
        """Mean log-probability of a token of the positive less that of the negative."""
        pairs = zip(self.positives, self.negatives, strict=True)
        return np.array([positive.mean - negative.mean for positive, negative in pairs])


def effects(plain: Heard, steered: Heard) -> Floats:
    """How far each pair's margin moved towards the positive, in nats a token."""
    return steered.margins_N - plain.margins_N


def figures(plain: Heard, steered: Heard) -> Figures:
    """The figures of one steering beside none."""
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
    """A mean with the percentile interval over resamples of whole groups, two-sided 95%."""
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
    """Of tokens that were the model's own choice, the share that still are."""
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
