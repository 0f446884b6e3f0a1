"""Intervals for the demo's figures: Wilson for shares, bootstrap for AUROC."""

from __future__ import annotations

import math

import numpy as np
from sklearn.metrics import roc_auc_score

Z_95 = 1.959964


def share(hits: int, n: int) -> dict[str, float]:
    """A share with its 95% Wilson interval."""
    if n == 0:
        return {"share": float("nan"), "low": 0.0, "high": 1.0, "n": 0}
    p, z2 = hits / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return {
        "share": round(p, 4),
        "low": round(max(0.0, centre - half), 4),
        "high": round(min(1.0, centre + half), 4),
        "n": n,
    }


def auroc(truth: list[bool], scores: np.ndarray, rounds: int = 300) -> dict[str, float]:
    """AUROC with a 95% bootstrap interval over records."""
    labels, rng = np.asarray(truth), np.random.default_rng(0)
    values = []
    for _ in range(rounds):
        pick = rng.integers(0, len(labels), len(labels))
        if labels[pick].min() != labels[pick].max():
            values.append(roc_auc_score(labels[pick], scores[pick]))
    low, high = np.quantile(values, [0.025, 0.975])
    return {
        "auroc": round(float(roc_auc_score(labels, scores)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": len(labels),
    }
