"""Angular steering's `.npy`: a pickled dict {module: {first_direction, second_direction}}.

The modules are norms, whose output the reference turns, with one plane everywhere. Norms' outputs
are no site: `site` says that the plane is to be used on the stream in front of the norm, where
lengths and per-dimension gains differ. u1 is first_direction made unit, u2 what second_direction
has beside it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.module_path import NORM_INPUT_SITES, split_module
from pilothouse.artifacts.vectors.array_pickle import PlainArray, load_arrays
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.numpy_file import npy_header
from pilothouse.artifacts.vectors.reading import Floats, Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers, read_bytes

FIRST, SECOND = "first_direction", "second_direction"
MIN_SINE = 1e-3
HOW = (
    "the reference turns the outputs of norms; here the plane turns the stream in front of them: "
    "compare before relying on it"
)


def read_angular(place: Path, wish: Wish) -> Reading:
    """Read the planes of the norms in front of which the wished site is."""
    planes = _planes(place)
    by_layer: dict[int, str] = {}
    for module in planes:
        found = split_module(module)
        if found is None or NORM_INPUT_SITES.get(found[1]) != wish.site:
            continue
        if found[0] in by_layer:
            refuse(
                place,
                module[:64],
                f"a second plane at layer {found[0]}",
                "one at each layer",
                "keep the modules of one kind in the file",
            )
        by_layer[found[0]] = module
    layers = chosen(place, by_layer, wish)
    assert wish.site is not None
    return Reading(
        place=place,
        form="plane",
        site=wish.site,
        layers={
            layer: {"basis": _basis(place, name, planes[name])} for layer, name in layers.items()
        },
        fields=layers,
        notes=(HOW,),
    )


def _planes(place: Path) -> dict[str, Any]:
    data = read_bytes(place)
    file = io.BytesIO(data)
    shape, _, dtype = npy_header(place, file)
    if shape != () or dtype.kind != "O":
        refuse(place, "header", f"{dtype} of shape {list(shape)}", "one pickled dict", FETCH_AGAIN)
    outer = load_arrays(place, data[file.tell() :])
    items = outer.objects if isinstance(outer, PlainArray) else None
    if not items or len(items) != 1 or not isinstance(items[0], dict):
        refuse(place, "content", type(outer).__name__, "one dict of planes", FETCH_AGAIN)
    return items[0]


def _basis(place: Path, module: str, plane: object) -> Floats:
    if not isinstance(plane, dict) or not {FIRST, SECOND} <= set(plane):
        refuse(
            place,
            module[:64],
            type(plane).__name__,
            f"a dict with {FIRST} and {SECOND}",
            FETCH_AGAIN,
        )
    first_D, second_D = (
        _direction(place, f"{module}.{name}", plane[name]) for name in (FIRST, SECOND)
    )
    if first_D.shape != second_D.shape:
        refuse(
            place, f"{module}.{SECOND}", f"{len(second_D)} numbers", f"{len(first_D)}", FETCH_AGAIN
        )
    lengths = float(np.linalg.norm(first_D)), float(np.linalg.norm(second_D))
    if min(lengths) == 0:
        refuse(place, module[:64], "a direction of zeros", "two directions", FETCH_AGAIN)
    u1_D = first_D / lengths[0]
    rest_D = second_D - (second_D @ u1_D) * u1_D
    if float(np.linalg.norm(rest_D)) < MIN_SINE * lengths[1]:
        refuse(
            place,
            f"{module}.{SECOND}",
            "the line of first_direction",
            "another direction",
            "make a plane of two directions that differ",
        )
    # Once more against u1: what rounding left of the first pass counts where the two are close.
    rest_D -= (rest_D @ u1_D) * u1_D
    return np.stack([u1_D, rest_D / np.linalg.norm(rest_D)]).astype(np.float32)


def _direction(place: Path, field: str, value: object) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = value.numbers(place, field) if isinstance(value, PlainArray) else value
    return numbers(place, field, array, 1).astype(np.float64)


register(
    Format(
        "angular",
        "angular steering's planes (pickled .npy)",
        read_angular,
        sites=("resid_pre", "resid_mid"),
        takes=frozenset({"layer"}),
        needs=frozenset({"site"}),
        pickled=True,
    )
)
