"""Samples with a direction planted in them."""

from __future__ import annotations

import numpy as np

from pilothouse.training.methods import Floats, Sample


def planted(
    *, pairs: int = 400, width: int = 24, gap: float = 4.0, noise: float = 1.0, seed: int = 0
) -> tuple[Sample, Floats]:
    """Positives lie `gap` further along a unit direction; pairs share a context of size 3."""
    generator = np.random.default_rng(seed)
    unit_D = generator.normal(size=width)
    unit_D /= np.linalg.norm(unit_D)
    context_ND = 3.0 * generator.normal(size=(pairs, width))
    sides = [context_ND + noise * generator.normal(size=(pairs, width)) for _ in range(2)]
    groups = np.array([f"g{n // 2}" for n in range(pairs)])
    return Sample(sides[0] + gap * unit_D, sides[1], groups), unit_D


def cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
