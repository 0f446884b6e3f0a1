"""One row per layer: the logit of a token is the sum over layers of <w_l, h_l>, plus the bias.

Shapes: as in `base`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.heads.base import ProbeHead, Tensors, register_head


@register_head("linear")
class Linear(ProbeHead):
    """A row. With two layers and rows w and -w it reads the displacement between them."""

    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        return tensors["weights"][:, None]
