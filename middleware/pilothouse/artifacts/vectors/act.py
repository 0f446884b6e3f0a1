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
from pilothouse.artifacts.module_path import OUTPUT_SITES, split_module
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.reading import Floats, LayerArrays, Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.rows import STREAM_AND_NEURONS
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers
from pilothouse.artifacts.vectors.state import folder_files, need, read_state
from pilothouse.errors import argument
from pilothouse.types import Site

SUFFIXES = (".statedict", ".pth", ".pt", ".bin")
RENAME = "name the file as its module, e.g. model.layers.3.mlp.down_proj.statedict"
ALL = "q_all"
ALL_RANGE = 1e6
"""What the reference puts in place of `q_all`, whatever the quantiles in the file."""
MIN_DEVIATION = 1e-4
"""Dimensions that vary less than this are left alone, as the reference does."""
GAUSSIAN = ("mu1", "mu2", "std1", "std2")


def read_act(only_mean: bool, place: Path, wish: Wish) -> Reading:
    """Read the maps of a folder's or one file's modules, at one site."""
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


def act_files(place: Path, wish: Wish) -> tuple[Site, dict[int, Path], tuple[str, ...]]:
    """Return the site, the file of each layer, and a note on what was left out.

    A module whose output is a site belongs there. Others (norms) belong nowhere by themselves:
    they are taken where a site is given and no other module of the folder is there.

    Raises:
        ArtefactError: no module, several sites and none chosen, or two modules for one layer.
    """
    files = folder_files(place) if place.is_dir() else [place]
    modules = {each: _module(each) for each in files if each.name.endswith(SUFFIXES)}
    known = {OUTPUT_SITES[name] for _, name in modules.values() if name in OUTPUT_SITES}
    if wish.site is None and len(known) != 1:
        names = sorted({name for _, name in modules.values()})
        refuse(
            place,
            "modules",
            f"{names or 'none'}, which are at {sorted(known) or 'no site'}",
            "modules at one site",
            f"say with {argument('site', 'SITE')} where the numbers belong",
        )
    site = wish.site or known.pop()
    mine = [each for each, (_, name) in modules.items() if OUTPUT_SITES.get(name) == site]
    mine = mine or [each for each, (_, name) in modules.items() if name not in OUTPUT_SITES]
    by_layer: dict[int, Path] = {}
    for file in mine:
        layer, _ = modules[file]
        if layer in by_layer:
            refuse(
                file,
                "name",
                f"a second module at layer {layer}, {site}",
                "one for each layer",
                "import one of the files by itself",
            )
        by_layer[layer] = file
    left = sorted({name or "block" for each, (_, name) in modules.items() if each not in mine})
    return site, chosen(place, by_layer, wish), (f"left out: {', '.join(left)}",) if left else ()


def _module(file: Path) -> tuple[int, str]:
    name = file.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    found = split_module(name.split(":")[0])
    if found is None:
        refuse(file, "name", file.name, "the name of a module with its layer", RENAME)
    return found


def source_range(file: Path, state: Mapping[Any, Any], width: int) -> tuple[Floats, Floats]:
    """Return low_D and high_D: what `quantiles_src` says, a pair of bounds or a name in the dict.

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
