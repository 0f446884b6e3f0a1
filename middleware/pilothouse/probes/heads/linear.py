"""One row per layer: the logit of a token is the sum over layers of <w_l, h_l>, plus the bias.

Shapes: as in `base`.
"""

from __future__ import annotations

from pilothouse.probes.heads.base import ProbeHead, TapReads, Tensors, register_head


@register_head("linear")
class Linear(ProbeHead):
    """A row. With two layers and rows w and -w it reads the displacement between them."""

    def reads(self, tensors: Tensors) -> tuple[TapReads, ...]:
        return tuple(TapReads(row_D[None]) for row_D in tensors["weights"])
