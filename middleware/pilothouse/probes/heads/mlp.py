"""One hidden layer of rectified units: logit = sum_l <w_l, relu(W_l h_l + b_l)> + bias.

Shapes: as in `base`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.heads.base import ProbeHead, Tensors, register_head


@register_head("mlp")
class Mlp(ProbeHead):
    """A row of the hidden layer; with several layers each has a hidden layer of its own."""

    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        return tensors["weights"][:, None]
