"""AUSteer's units: three parallel lists in `all_scores.pt`, `all_layer_ids.pt`, `all_indices.pt`.

The strongest units scale their dimension, h * (1 + a m) with m the signed score: a diagonal map
with weight m, to be applied with scale a. An index is a window [first, end) of dimensions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.transform import UNBOUNDED
from pilothouse.artifacts.vectors.reading import Floats, Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, layer_number, numbers, whole_number
from pilothouse.artifacts.vectors.state import read_pickled
from pilothouse.errors import argument

SCORES_FILE, LAYERS_FILE, INDICES_FILE = "all_scores.pt", "all_layer_ids.pt", "all_indices.pt"
MAX_WIDTH = 1 << 20


def read_austeer(place: Path, wish: Wish) -> Reading:
    """Read the `top` units of a screening's folder by |score|, ties by their order, as maps."""
    if not place.is_dir():
        refuse(
            place,
            "folder",
            "no folder",
            f"{SCORES_FILE}, {LAYERS_FILE} and {INDICES_FILE}",
            "give the folder that the screening wrote",
        )
    assert wish.top is not None and wish.width is not None and wish.site is not None
    scores = numbers(place / SCORES_FILE, "scores", read_pickled(place / SCORES_FILE, wish), 1)
    layer_ids = _list(place / LAYERS_FILE, len(scores), wish)
    indices = _list(place / INDICES_FILE, len(scores), wish)
    weights: dict[int, Floats] = {}
    left = wish.top
    for unit in np.argsort(-np.abs(scores), kind="stable").tolist():
        if left <= 0 or scores[unit] == 0:
            break
        layer = layer_number(place / LAYERS_FILE, f"[{unit}]", layer_ids[unit])
        first, end = _window(place / INDICES_FILE, unit, indices[unit], wish.width)
        weight_D = weights.setdefault(layer, np.zeros(wish.width, np.float32))
        weight_D[first:end] = scores[unit]
        left = wish.top - sum(int(np.count_nonzero(each)) for each in weights.values())
    if not weights:
        refuse(place / SCORES_FILE, "scores", "zeros", "a score that is not 0", FETCH_AGAIN)
    return Reading(
        place=place,
        form="diagonal",
        site=wish.site,
        layers={layer: _diagonal(weights[layer]) for layer in sorted(weights)},
        fields=dict.fromkeys(weights, SCORES_FILE),
        notes=("apply it with the paper's alpha as scale (reference code: 5 to 100)",),
    )


def _list(file: Path, count: int, wish: Wish) -> list[object]:
    value = read_pickled(file, wish)
    if not isinstance(value, list):
        refuse(file, "content", type(value).__name__, "a list", FETCH_AGAIN)
    if len(value) != count:
        refuse(
            file, "content", f"{len(value)} entries", f"{count}, as {SCORES_FILE} has", FETCH_AGAIN
        )
    return value


def _window(file: Path, unit: int, value: object, width: int) -> tuple[int, int]:
    field = f"[{unit}]"
    if isinstance(value, list) and len(value) == 2:
        first, end = (whole_number(file, field, each) for each in value)
    else:
        first = whole_number(file, field, value)
        end = first + 1
    if not first < end <= width:
        refuse(
            file,
            field,
            f"dimensions {first} to {end}",
            f"within the width {width}",
            f"give the width of the site with {argument('width', 'N')}",
        )
    return first, end


def _diagonal(weight_D: Floats) -> dict[str, Floats]:
    bound_D = np.full_like(weight_D, UNBOUNDED)
    return {"weight": weight_D, "bias": np.zeros_like(weight_D), "low": -bound_D, "high": bound_D}


register(
    Format(
        "austeer",
        "AUSteer's activation units (all_*.pt)",
        read_austeer,
        sites=("attn_heads", "mlp_out", "resid_post"),
        needs=frozenset({"site", "top", "width"}),
        pickled=True,
    )
)
