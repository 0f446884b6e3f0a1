"""Oracle of the operators: the textbook definition of each, one token at a time, in float64.

Written from the papers' formulas and apart from `pilothouse.edits`: no rows, gates or programs.
Shapes: D width, K basis directions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vec = NDArray[np.float64]


def add(h: Vec, v: Vec, scale: float) -> Vec:
    return h + scale * v


def relative_add(h: Vec, v: Vec, scale: float) -> Vec:
    """As long as a share of the token, along the vector."""
    return h + scale * math.sqrt(float(h @ h)) * v / math.sqrt(float(v @ v))


def add_below(h: Vec, v: Vec, scale: float, limit: float) -> Vec:
    p = float(v @ h) / math.sqrt(float(v @ v))
    return h + scale * v if p < limit else h.copy()


def ablate(h: Vec, basis_KD: Vec, scale: float = 1.0) -> Vec:
    """Away with the part in the span of the directions, by a projector from the SVD."""
    _, singular, right = np.linalg.svd(np.atleast_2d(basis_KD), full_matrices=False)
    span = right[singular > 1e-9]
    return h - scale * span.T @ (span @ h)


def reflect(h: Vec, basis_KD: Vec) -> Vec:
    return ablate(h, basis_KD, 2.0)


def _moved_to(h: Vec, v: Vec, target: float) -> Vec:
    u = v / math.sqrt(float(v @ v))
    return h + (target - float(u @ h)) * u


def set_projection(h: Vec, v: Vec, value: float) -> Vec:
    return _moved_to(h, v, value)


def floor_projection(h: Vec, v: Vec, value: float) -> Vec:
    p = float(v @ h) / math.sqrt(float(v @ v))
    return _moved_to(h, v, value) if p < value else h.copy()


def cap_projection(h: Vec, v: Vec, value: float) -> Vec:
    p = float(v @ h) / math.sqrt(float(v @ v))
    return _moved_to(h, v, value) if p > value else h.copy()


def affine(h: Vec, v: Vec, factor: float, offset: float) -> Vec:
    p = float(v @ h) / math.sqrt(float(v @ v))
    return _moved_to(h, v, factor * p + offset)


def rotate(h: Vec, plane_2D: Vec, degrees: float) -> Vec:
    """Within the plane to an absolute angle from the first direction; the length there stays."""
    x, y = float(plane_2D[0] @ h), float(plane_2D[1] @ h)
    outside = h - x * plane_2D[0] - y * plane_2D[1]
    length, angle = math.hypot(x, y), math.radians(degrees)
    return outside + length * (math.cos(angle) * plane_2D[0] + math.sin(angle) * plane_2D[1])


def rotate_adaptive(h: Vec, plane_2D: Vec, degrees: float) -> Vec:
    """Only what already leans to the first direction is turned."""
    return rotate(h, plane_2D, degrees) if float(plane_2D[0] @ h) > 0 else h.copy()


def slerp(h: Vec, v: Vec, share: float) -> Vec:
    """Shoemake's formula between the two unit vectors, times the token's length."""
    length = math.sqrt(float(h @ h))
    start, end = h / length, v / math.sqrt(float(v @ v))
    angle = math.acos(max(-1.0, min(1.0, float(start @ end))))
    at_start, at_end = math.sin((1 - share) * angle), math.sin(share * angle)
    return length * (at_start * start + at_end * end) / math.sin(angle)


def loreft(h: Vec, rotation_KD: Vec, weight_KD: Vec, bias_K: Vec) -> Vec:
    return h + rotation_KD.T @ (weight_KD @ h + bias_K - rotation_KD @ h)


def linear_transport(
    h: Vec, weight_D: Vec, bias_D: Vec, low_D: Vec, high_D: Vec, strength: float
) -> Vec:
    """AcT's map between marginals, applied where a neuron is within its support."""
    out = h.copy()
    for i in range(len(h)):
        if low_D[i] < h[i] < high_D[i]:
            out[i] = (1 - strength) * h[i] + strength * (weight_D[i] * h[i] + bias_D[i])
    return out


def gated_add(h: Vec, v: Vec, scale: float, logit: float, above: float, sharpness: float) -> Vec:
    return h + scale * v / (1.0 + math.exp(-sharpness * (logit - above)))


def restored(before: Vec, after: Vec) -> Vec:
    return after * math.sqrt(float(before @ before)) / math.sqrt(float(after @ after))


def shortened(before: Vec, after: Vec) -> Vec:
    """Never longer than before."""
    return restored(before, after) if after @ after > before @ before else after.copy()


def as_tokens(call: Any, hidden_TD: Vec, *args: Any) -> Vec:
    """An operator over several tokens."""
    return np.stack([call(h, *args) for h in hidden_TD])
