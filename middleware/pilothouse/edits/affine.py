"""What an edit is as one affine map of each token, where it is one.

    h' = h + left (right h) + constant

Additions are constants; ablations, reflections, fixed projections and low-rank maps are linear in
h; whatever looks at the token to decide how much it does is neither. Each kind of table says of
itself which it is.

Shapes: R rows, D width of the tap.
"""

from __future__ import annotations

import numpy as np

from pilothouse.edits.layer import LayerEdit
from pilothouse.edits.table import Affine

__all__ = ["Affine", "affine_of"]


def affine_of(edit: LayerEdit, coefficient: float) -> Affine | str:
    """Return the map of an edit at a strength, or why it is not one, in words."""
    maps: list[Affine] = []
    for each in edit.tables:
        found = each.affine(coefficient)
        if isinstance(found, str):
            return found
        maps.append(found)
    return Affine(
        np.concatenate([each.left_DR for each in maps], axis=1),
        np.concatenate([each.right_RD for each in maps]),
        np.sum([each.constant_D for each in maps], axis=0),
    )
