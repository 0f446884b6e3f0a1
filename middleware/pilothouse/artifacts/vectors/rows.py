"""Plain arrays whose layers are said beside them.

Shapes: L layers, D width of the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Floats
from pilothouse.artifacts.vectors.source import numbers
from pilothouse.errors import argument
from pilothouse.types import Site

STREAM_AND_NEURONS: tuple[Site, ...] = tuple(site for site in get_args(Site) if site != "logits")
"""Every site that can be written."""


def rows_at(
    place: Path, field: str, value: object, layers: Sequence[int]
) -> dict[int, dict[str, Floats]]:
    """Return the rows of [L, D] at the layers in the order given; [D] at the one layer given.

    Raises:
        ArtefactError: another number of rows than of layers, or what `numbers` refuses.
    """
    flat = isinstance(value, np.ndarray) and value.ndim == 1
    rows_LD = numbers(place, field, value, 1)[None] if flat else numbers(place, field, value, 2)
    if len(rows_LD) != len(layers):
        refuse(
            place,
            field,
            f"shape {list(rows_LD.shape)}, which is {len(rows_LD)} rows",
            f"{len(layers)} rows, one for each of layers {list(layers)}",
            f"name with {argument('layers')} the layer of every row, in the order of the rows",
        )
    return {layer: {"direction": rows_LD[row]} for row, layer in enumerate(layers)}
