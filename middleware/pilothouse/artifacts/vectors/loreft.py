"""pyreft's LoReFT interventions: h + R'(W h + b - R h), with the rows of R orthonormal.

A file has `rotate_layer` [D, R], which is R', `weight` [R, D] and `bias` [R]; its name says where.
As a low-rank transform: read W - R, write R, bias b.

pyvene, which saves them, has named files by `layer.N.repr.COMPONENT` at first, then by `comp`, then
with underscores, and by the path of a module where the component was given as one; its trainer puts
them into a folder `intervenable_model`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.module_path import module_tap
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.reading import LayerArrays, Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers
from pilothouse.artifacts.vectors.state import folder_files, read_state
from pilothouse.errors import ArtefactError, ConfigError, argument
from pilothouse.types import Site

NAME = re.compile(
    r"intkey[._](?:layer[._](\d{1,4}|None)[._](?:repr|comp)[._]|comp[._])(.+?)"
    r"(?:[._]unit[._](.+?)(?:[._]nunit.*)?)?\.bin"
)
PREFIX = "intkey"
INSIDE = "intervenable_model"
SITES: Mapping[str, Site] = {
    "block_input": "resid_pre",
    "attention_value_output": "attn_heads",
    "attention_output": "attn_out",
    "mlp_output": "mlp_out",
    "block_output": "resid_post",
}
ORTHONORMAL_ERROR = 0.05
"""Bounds what bfloat16 leaves of orthonormal rows; anything else is no rotation."""
ALONE = (
    f"import one file by itself with {argument('layers', 'N')} and {argument('site', 'SITE')} "
    "(block_output is resid_post)"
)
HOW = "pyreft edits prompt positions only (its config's first and last n): name them in the term"


def read_loreft(place: Path, wish: Wish) -> Reading:
    """Read the interventions of a saved folder, or of one file, as low-rank maps."""
    if place.is_dir():
        site, files = _in_folder(place, wish)
    else:
        site, files = _alone(place, wish)
    return Reading(
        place=place,
        form="lowrank",
        site=site,
        layers={layer: _arrays(file, wish) for layer, file in files.items()},
        fields={layer: file.name for layer, file in files.items()},
        notes=(HOW,),
    )


def _in_folder(folder: Path, wish: Wish) -> tuple[Site, dict[int, Path]]:
    found: dict[Site, dict[int, Path]] = {}
    for file in _files(folder):
        layer, site = _place_of(file)
        if layer in found.setdefault(site, {}):
            refuse(
                file, "name", f"a second intervention at layer {layer}", "one for each layer", ALONE
            )
        found[site][layer] = file
    sites = [wish.site] if wish.site else list(found)
    if len(sites) != 1 or sites[0] not in found:
        refuse(
            folder,
            "files",
            f"interventions at {sorted(found) or 'no site'}",
            f"intkey*.bin at {wish.site or 'one site'}",
            f"choose with {argument('site', 'SITE')} one that is there",
        )
    return sites[0], chosen(folder, found[sites[0]], wish)


def _files(folder: Path) -> list[Path]:
    """Return the interventions in a folder, or in the one below it that a trainer makes."""
    inside = folder / INSIDE
    found = _named(folder) or (_named(inside) if inside.is_dir() else [])
    if not found:
        trained = sorted(str(each.relative_to(folder)) for each in folder.glob(f"*/{INSIDE}"))
        refuse(
            folder,
            "files",
            f"no {PREFIX}*.bin",
            "the interventions that pyreft saved",
            f"name one of {trained[:8]}" if trained else FETCH_AGAIN,
        )
    return found


def _named(folder: Path) -> list[Path]:
    return [each for each in folder_files(folder) if each.name.startswith(PREFIX)]


def _place_of(file: Path) -> tuple[int, Site]:
    match = NAME.fullmatch(file.name)
    if match is None:
        refuse(
            file,
            "name",
            file.name,
            "intkey_layer_N_comp_COMPONENT_unit_...bin, or the path of "
            "a module in place of the component",
            ALONE,
        )
    said, component, unit = match.groups()
    if unit not in (None, "pos"):
        refuse(
            file,
            "name",
            f"unit {unit!r}",
            "'pos'",
            "train the intervention on whole positions: a single head is no site",
        )
    number = None if said in (None, "None") else int(said)
    if component in SITES and number is not None:
        return number, SITES[component]
    tap = module_tap(component)
    if tap is None:
        refuse(
            file,
            "name",
            f"component {component!r}",
            f"one of {sorted(SITES)}, or the path of a module at a site",
            "train the intervention at a component that is a site, or import the file by itself "
            f"with {argument('layers', 'N')} and {argument('site', 'SITE')}",
        )
    # pyvene's layer is 0 where only a path was given.
    if number not in (None, 0, tap.layer):
        refuse(file, "name", f"layer {number} and {component!r}", "one layer", ALONE)
    return tap.layer, tap.site


def _alone(file: Path, wish: Wish) -> tuple[Site, dict[int, Path]]:
    is_said = len(wish.layer_numbers) == 1 and wish.site is not None
    if _is_named(file) or not is_said:
        layer, site = _place_of(file)
        if wish.site in (None, site) and wish.layer_numbers in ((), (layer,)):
            return site, {layer: file}
        raise ConfigError(
            f"{argument('layers')}, {argument('site')}: got {list(wish.layer_numbers)}, "
            f"{wish.site}; the name {file.name} says layer {layer}, {site}: leave them out"
        )
    assert wish.site is not None
    return wish.site, {wish.layer_numbers[0]: file}


def _is_named(file: Path) -> bool:
    """Return whether a file's name says a place that is a site."""
    try:
        _place_of(file)
    except ArtefactError:
        return False
    return True


def _arrays(file: Path, wish: Wish) -> LayerArrays:
    state = read_state(file, wish, ("rotate_layer", "weight", "bias"))
    rotate_DR = numbers(file, "rotate_layer", state["rotate_layer"], 2)
    rows_RD = np.ascontiguousarray(rotate_DR.T)
    learned_RD = numbers(file, "weight", state["weight"], 2)
    bias_R = numbers(file, "bias", state["bias"], 1)
    if learned_RD.shape != rows_RD.shape or bias_R.shape != rows_RD.shape[:1]:
        refuse(
            file,
            "rotate_layer, weight, bias",
            [list(each.shape) for each in (rotate_DR, learned_RD, bias_R)],
            "shapes [D, R], [R, D] and [R]",
            FETCH_AGAIN,
        )
    if len(rows_RD) > 1024:
        refuse(file, "rotate_layer", f"rank {len(rows_RD)}", "at most 1024", FETCH_AGAIN)
    wide_RD = rows_RD.astype(np.float64)
    error = float(np.abs(wide_RD @ wide_RD.T - np.eye(len(wide_RD))).max())
    if error > ORTHONORMAL_ERROR:
        refuse(
            file,
            "rotate_layer",
            f"columns off orthonormal by {error:.2g}",
            f"within {ORTHONORMAL_ERROR:g}, as LoReFT trains them",
            "give a LoReFT intervention; other ReFT forms have other maps",
        )
    return {"read": learned_RD - rows_RD, "write": rows_RD, "bias": bias_R}


register(
    Format(
        "loreft",
        "pyreft LoReFT interventions (.bin)",
        read_loreft,
        sites=tuple(SITES.values()),
        takes=frozenset({"layer", "site"}),
        pickled=True,
    )
)
