"""Which of AcT's per-module files belong to one site, and at which layer each is."""

from __future__ import annotations

from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.module_path import OUTPUT_SITES, split_module
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.reading import Wish
from pilothouse.artifacts.vectors.state import folder_files
from pilothouse.types import Site

SUFFIXES = (".statedict", ".pth", ".pt", ".bin")
RENAME = "name the file as its module, e.g. model.layers.3.mlp.down_proj.statedict"


def act_files(place: Path, wish: Wish) -> tuple[Site, dict[int, Path], tuple[str, ...]]:
    """The site, the file of each layer, and a note on what was left out.

    A module whose output is a site belongs there. Others (norms) belong nowhere by themselves:
    they are taken where --site is given and no other module of the folder is there.

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
            "say with --site where the numbers belong",
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
