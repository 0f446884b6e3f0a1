"""Oracles of the figures: counted pair by pair, summed term by term."""

from __future__ import annotations

import math
from collections.abc import Sequence


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Every positive against every negative."""
    positives = [score for score, label in zip(scores, labels, strict=True) if label]
    negatives = [score for score, label in zip(scores, labels, strict=True) if not label]
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


def tpr_at_fpr(scores: Sequence[float], labels: Sequence[bool], target: float) -> float:
    """The best recall of all cuts `score > c` that pass at most the target's share."""
    positives = [score for score, label in zip(scores, labels, strict=True) if label]
    negatives = [score for score, label in zip(scores, labels, strict=True) if not label]
    best = 0.0
    for cut in scores:
        if sum(each > cut for each in negatives) <= target * len(negatives):
            best = max(best, sum(each > cut for each in positives) / len(positives))
    return best


def binomial_at_most(successes: int, count: int, rate: float) -> float:
    """P(X <= successes) of a binomial, the definition behind Clopper-Pearson."""
    return math.fsum(
        math.comb(count, each) * rate**each * (1 - rate) ** (count - each)
        for each in range(successes + 1)
    )
