"""Efficient Probing: several learned queries without keys, each with values of its own.

Head m pools V_m x_t by softmax over t of <q_m, x_t> / sqrt(D); what is pooled stands end to end
before a linear classifier (Attention, Please!, arXiv 2506.10178). Pooling is linear in what is
pooled, so that the classifier's part c_m can go first: u = <c_m V_m, x_t> is one row, and the rest
is attention.

Shapes: as in `base`; H heads, V values of a head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.heads.attention import SoftmaxPooling
from pilothouse.probes.heads.base import ProbeHead, Tensors, register_head
from pilothouse.probes.heads.pooling import Pooling


@register_head("efficient_probing")
class EfficientProbing(ProbeHead):
    """Rows of scaled queries, then of values with the classifier folded in."""

    def rows(self, tensors: Tensors) -> NDArray[np.floating]:
        queries_LHD = tensors["queries"].astype(np.float64)
        queries_LHD /= np.sqrt(queries_LHD.shape[2])
        maps_LHVD = tensors["value_maps"].astype(np.float64)
        values_LHD = np.einsum("hv,lhvd->lhd", tensors["classifier"], maps_LHVD)
        return np.concatenate([queries_LHD, values_LHD], axis=1)

    def pooling(self) -> Pooling:
        assert self.head.heads is not None
        return SoftmaxPooling(self.head.heads)
