"""Within which values AcT moves a dimension: the quantiles of its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Floats
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers

ALL = "q_all"
ALL_RANGE = 1e6
"""What the reference puts in place of `q_all`, whatever the quantiles in the file."""


def source_range(file: Path, state: Mapping[Any, Any], width: int) -> tuple[Floats, Floats]:
    """low_D and high_D: what `quantiles_src` says, a pair of bounds or a name in the dict.

    Raises:
        ArtefactError: a name that is not there, or bounds that are no range of this width.
    """
    wanted = state.get("quantiles_src", ALL)
    if isinstance(wanted, str) and wanted == ALL:
        wanted = [-ALL_RANGE, ALL_RANGE]
    field = "quantiles_src"
    if isinstance(wanted, str):
        quantiles, field = state.get("quantiles_dict_src"), "quantiles_dict_src"
        if not isinstance(quantiles, dict) or wanted not in quantiles:
            names = sorted(map(str, quantiles)) if isinstance(quantiles, dict) else quantiles
            refuse(file, field, names, f"{wanted!r} among its names", FETCH_AGAIN)
        wanted = quantiles[wanted]
    if not isinstance(wanted, list) or len(wanted) != 2:
        refuse(file, field, wanted, "two bounds", FETCH_AGAIN)
    low_D, high_D = (_bound(file, field, each, width) for each in wanted)
    if not (low_D < high_D).any():
        refuse(file, field, "bounds with nothing between them", "low below high", FETCH_AGAIN)
    return low_D, high_D


def _bound(file: Path, field: str, value: object, width: int) -> Floats:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = float(value.reshape(()))
    if isinstance(value, (int, float)):
        value = [float(value)] * width
    bound_D = numbers(file, field, value, 1)
    if len(bound_D) != width:
        refuse(file, field, f"{len(bound_D)} numbers", f"{width}, as the map has", FETCH_AGAIN)
    return bound_D
