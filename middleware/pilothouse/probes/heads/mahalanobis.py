"""How far a token is from a mean, in a metric of low rank.

logit = sum_l sum_r w_lr <f_lr, h_l - m_l>^2 + bias. Weights of 1 make it the squared distance whose
inverse covariance is F'F; with weights of both signs it is the difference of two such distances
about one mean, as between two Gaussians.

Shapes: as in `base`; R factors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.heads.base import HiddenLayer, ProbeHead, Tensors, register_head


@register_head("mahalanobis")
class Mahalanobis(ProbeHead):
    """A row of squares: a hidden layer of factors, each from what it reads of the mean."""

    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        return tensors["weights"][:, None]

    def hidden(self, tensors: Tensors) -> tuple[HiddenLayer, ...]:
        layers = zip(tensors["factors"], tensors["mean"], strict=True)
        return tuple(
            HiddenLayer(factors_RD, -factors_RD.astype(np.float64) @ mean_D, "square")
            for factors_RD, mean_D in layers
        )
