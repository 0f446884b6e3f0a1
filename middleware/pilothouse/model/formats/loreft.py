"""pyreft's LoReFT interventions: h + R'(W h + b - R h), with the rows of R orthonormal.

A file has `rotate_layer` [D, R], which is R', `weight` [R, D] and `bias` [R]; its name says layer
and component. As a low-rank transform: read W - R, write R, bias b.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pilothouse.errors import ConfigError
from pilothouse.model.artefact import refuse
from pilothouse.model.formats.chosen import chosen
from pilothouse.model.formats.reading import LayerArrays, Reading, Wish
from pilothouse.model.formats.registry import Format, register
from pilothouse.model.formats.source import FETCH_AGAIN, numbers
from pilothouse.model.formats.state import folder_files, read_state
from pilothouse.types import Site

NAME = re.compile(r"intkey_layer[._](\d{1,4})[._]comp[._]([a-z_]+?)[._]unit.*\.bin")
SITES: Mapping[str, Site] = {
    "block_input": "resid_pre", "attention_value_output": "attn_heads",
    "attention_output": "attn_out", "mlp_output": "mlp_out", "block_output": "resid_post",
}  # fmt: skip
ORTHONORMAL_ERROR = 0.05
"""Bounds what bfloat16 leaves of orthonormal rows; anything else is no rotation."""
ALONE = "import one file by itself with --layer and --site"
HOW = "pyreft edits prompt positions only (its config's first and last n): name them in the term"


def read_loreft(place: Path, wish: Wish) -> Reading:
    """The interventions of a saved folder, or of one file, as low-rank maps."""
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
    for file in folder_files(folder):
        if not file.name.startswith("intkey_"):
            continue
        layer, site = _place_of(file)
        if layer in found.setdefault(site, {}):
            refuse(file, "name", f"a second intervention at layer {layer}", "one for each layer",
                   ALONE)  # fmt: skip
        found[site][layer] = file
    sites = [wish.site] if wish.site else list(found)
    if len(sites) != 1 or sites[0] not in found:
        refuse(folder, "files", f"interventions at {sorted(found) or 'no site'}",
               f"intkey_*.bin at {wish.site or 'one site'}",
               "choose with --site one that is there")  # fmt: skip
    return sites[0], chosen(folder, found[sites[0]], wish)


def _place_of(file: Path) -> tuple[int, Site]:
    match = NAME.fullmatch(file.name)
    if match is None:
        refuse(file, "name", file.name, "intkey_layer_N_comp_COMPONENT_unit_...bin", ALONE)
    if match.group(2) not in SITES:
        refuse(file, "name", f"component {match.group(2)!r}", f"one of {sorted(SITES)}",
               "train the intervention at a component that is a site")  # fmt: skip
    return int(match.group(1)), SITES[match.group(2)]


def _alone(file: Path, wish: Wish) -> tuple[Site, dict[int, Path]]:
    if NAME.fullmatch(file.name) is not None:
        layer, site = _place_of(file)
        if wish.site in (None, site) and wish.layer_numbers in ((), (layer,)):
            return site, {layer: file}
        raise ConfigError(
            f"--layer, --site: got {list(wish.layer_numbers)}, {wish.site}; the name {file.name} "
            f"says layer {layer}, {site}: leave them out"
        )
    if len(wish.layer_numbers) != 1 or wish.site is None:
        refuse(file, "name", file.name, "a name with layer and component, as pyreft gives it",
               "say --layer N and --site SITE (block_output is resid_post)")  # fmt: skip
    return wish.site, {wish.layer_numbers[0]: file}


def _arrays(file: Path, wish: Wish) -> LayerArrays:
    state = read_state(file, wish, ("rotate_layer", "weight", "bias"))
    rotate_DR = numbers(file, "rotate_layer", state["rotate_layer"], 2)
    rows_RD = np.ascontiguousarray(rotate_DR.T)
    learned_RD = numbers(file, "weight", state["weight"], 2)
    bias_R = numbers(file, "bias", state["bias"], 1)
    if learned_RD.shape != rows_RD.shape or bias_R.shape != rows_RD.shape[:1]:
        refuse(file, "rotate_layer, weight, bias",
               [list(each.shape) for each in (rotate_DR, learned_RD, bias_R)],
               "shapes [D, R], [R, D] and [R]", FETCH_AGAIN)  # fmt: skip
    if len(rows_RD) > 1024:
        refuse(file, "rotate_layer", f"rank {len(rows_RD)}", "at most 1024", FETCH_AGAIN)
    wide_RD = rows_RD.astype(np.float64)
    error = float(np.abs(wide_RD @ wide_RD.T - np.eye(len(wide_RD))).max())
    if error > ORTHONORMAL_ERROR:
        refuse(file, "rotate_layer", f"columns off orthonormal by {error:.2g}",
               f"within {ORTHONORMAL_ERROR:g}, as LoReFT trains them",
               "give a LoReFT intervention; other ReFT forms have other maps")  # fmt: skip
    return {"read": learned_RD - rows_RD, "write": rows_RD, "bias": bias_R}


register(
    Format(
        "loreft", "pyreft LoReFT interventions (.bin)", read_loreft,
        sites=tuple(SITES.values()), takes=frozenset({"layer", "site"}), pickled=True,
    )
)  # fmt: skip
