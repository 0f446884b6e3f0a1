"""Oracle of additive steering: the definition, one token and one term at a time, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.vector import Vector
from pilothouse.term import SteerTerm


def added_at(
    terms: Sequence[SteerTerm], vectors: Mapping[str, Vector], layer: int
) -> NDArray[np.float64]:
    """What the terms add to h at a layer."""
    depth = next(iter(vectors.values())).d_model
    total = np.zeros(depth)
    for term in terms:
        assert term.scale is not None
        vector = vectors[term.vector]
        for index, place in enumerate(vector.layers):
            if place != layer or (term.layers is not None and layer not in term.layers):
                continue
            direction = [float(each) for each in vector.directions_LD[index]]
            length = sum(each * each for each in direction) ** 0.5
            factor = {
                "raw": 1.0,
                "unit": 1.0 / length,
                "residual": float(vector.residual_norms_L[index]) / length,
            }[term.unit]
            total += np.array([term.scale * factor * each for each in direction])
    return total
