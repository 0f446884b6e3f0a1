"""Activation transport (AcT): one state dict for each module, its name the module's.

Linear-AcT: `net.w1`, `net.b1` [1, D], h -> w h + b. Gaussian-AcT: `mu1`, `std1`, `mu2`, `std2`,
w = std2 / std1, b = mu2 - w mu1. Mean-AcT keeps the same numbers but uses b = mu2 - mu1 only; the
file does not tell which, so it is a format of its own. From source (label true) to target. Each
dimension is moved where it lies within the source's quantiles. As a diagonal map: weight w - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.act_files import act_files
from pilothouse.artifacts.vectors.act_range import source_range
from pilothouse.artifacts.vectors.reading import Floats, LayerArrays, Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.rows import STREAM_AND_NEURONS
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers
from pilothouse.artifacts.vectors.state import need, read_state

MIN_DEVIATION = 1e-4
"""Dimensions that vary less than this are left alone, as the reference does."""
GAUSSIAN = ("mu1", "mu2", "std1", "std2")


def read_act(only_mean: bool, place: Path, wish: Wish) -> Reading:
    """The maps of a folder's or one file's modules, at one site."""
    site, files, notes = act_files(place, wish)
    return Reading(
        place=place,
        form="diagonal",
        site=site,
        layers={layer: _diagonal(file, wish, only_mean) for layer, file in files.items()},
        fields={layer: file.name for layer, file in files.items()},
        notes=notes,
    )


def _diagonal(file: Path, wish: Wish, only_mean: bool) -> LayerArrays:
    state = read_state(file, wish, ())
    if "net.w1" in state and not only_mean:
        need(file, state, ("net.w1", "net.b1"))
        slope_D = numbers(file, "net.w1", state["net.w1"], 1)
        shift_D = numbers(file, "net.b1", state["net.b1"], 1)
        _same_width(file, {"net.w1": slope_D, "net.b1": shift_D})
        moved_D = np.ones(len(slope_D), bool)
    else:
        slope_D, shift_D, moved_D = _gaussian(file, state, only_mean)
    low_D, high_D = source_range(file, state, len(slope_D))
    weight_D = np.where(moved_D, slope_D - 1, 0).astype(np.float32)
    bias_D = np.where(moved_D, shift_D, 0).astype(np.float32)
    if not (weight_D.any() or bias_D.any()):
        refuse(file, "map", "the identity", "a map that moves something", FETCH_AGAIN)
    return {"weight": weight_D, "bias": bias_D, "low": low_D, "high": high_D}


def _gaussian(
    file: Path, state: Mapping[Any, Any], only_mean: bool
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    need(file, state, GAUSSIAN)
    parts = {name: numbers(file, name, state[name], 1) for name in GAUSSIAN}
    _same_width(file, parts)
    mu1_D, mu2_D, std1_D, std2_D = (parts[name] for name in GAUSSIAN)
    for name in ("std1", "std2"):
        if (parts[name] < 0).any():
            refuse(file, name, "negative values", "standard deviations", FETCH_AGAIN)
    moved_D = (std1_D > MIN_DEVIATION) & (std2_D > MIN_DEVIATION)
    if only_mean:
        return np.ones_like(mu1_D), mu2_D - mu1_D, moved_D
    slope_D: Floats = np.divide(std2_D, std1_D, out=np.ones_like(std1_D), where=moved_D)
    shift_D: Floats = mu2_D - slope_D * mu1_D
    return slope_D, shift_D, moved_D


def _same_width(file: Path, parts: Mapping[str, Floats]) -> None:
    widths = {name: len(part) for name, part in parts.items()}
    if len(set(widths.values())) != 1:
        refuse(file, ", ".join(widths), list(widths.values()), "one width", FETCH_AGAIN)


for _name, _only_mean in (("act", False), ("act-mean", True)):
    register(
        Format(
            _name,
            "Mean-AcT modules" if _only_mean else "Linear-AcT and Gaussian-AcT modules",
            partial(read_act, _only_mean),
            sites=STREAM_AND_NEURONS,
            takes=frozenset({"layer", "site"}),
            pickled=True,
        )
    )
