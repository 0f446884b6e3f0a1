"""Directions from contrasts: what one set of activations has and another has not.

Shapes: N activations, L layers, D = d_model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ConfigError

Activations = NDArray[np.float32]


def mean_difference(positive_NLD: Activations, negative_NLD: Activations) -> Activations:
    """direction_LD: the positive mean less the negative mean, float32, in the units of h.

    Raises:
        ConfigError: shapes that do not fit, no activations, or values that are not finite.
    """
    for name, each in (("positive", positive_NLD), ("negative", negative_NLD)):
        _check(name, each)
    if positive_NLD.shape[1:] != negative_NLD.shape[1:]:
        raise ConfigError(
            f"direction: got {positive_NLD.shape[1:]} and {negative_NLD.shape[1:]} as layers and "
            "width, want the same for both sets"
        )
    direction_LD: NDArray[np.float64] = positive_NLD.mean(axis=0, dtype=np.float64)
    direction_LD = direction_LD - negative_NLD.mean(axis=0, dtype=np.float64)
    return direction_LD.astype(np.float32)


def mean_norms(hidden_NLD: Activations) -> Activations:
    """norms_L: the mean length of h at each layer, float32; the measure of the unit `residual`.

    Raises:
        ConfigError: no activations, or values that are not finite.
    """
    _check("hidden", hidden_NLD)
    lengths_NL = np.linalg.norm(hidden_NLD.astype(np.float64), axis=-1)
    norms_L: Activations = lengths_NL.mean(axis=0).astype(np.float32)
    return norms_L


def random_like(direction_LD: Activations, seed: int) -> Activations:
    """The control: random directions of the same length at each layer, float32."""
    drawn_LD = np.random.default_rng(seed).normal(size=direction_LD.shape)
    lengths_L1 = np.linalg.norm(direction_LD.astype(np.float64), axis=-1, keepdims=True)
    random_LD: NDArray[np.float64] = drawn_LD / np.linalg.norm(drawn_LD, axis=-1, keepdims=True)
    scaled_LD: Activations = (random_LD * lengths_L1).astype(np.float32)
    return scaled_LD


def _check(name: str, hidden_NLD: Activations) -> None:
    if hidden_NLD.ndim != 3 or hidden_NLD.shape[0] == 0:
        raise ConfigError(f"direction: {name}: got {hidden_NLD.shape}, want (count, layers, width)")
    if not np.isfinite(hidden_NLD).all():
        raise ConfigError(f"direction: {name}: got NaN or infinite values, want finite ones")
