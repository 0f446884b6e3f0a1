"""IBM activation-steering's `.svec`: JSON with `model_type` and `directions` {layer: [numbers]}.

Their directions are measured at the *output* of block l and added at its *input*. Without a
site they land where that library adds them, at `resid_pre` of l.
"""

from __future__ import annotations

from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, layer_number, numbers, read_json

WHERE_ADDED = (
    "at resid_pre, where activation-steering adds what it measured at resid_post of the same "
    "layer; the site resid_post would put it where it was measured"
)


def read_svec(place: Path, wish: Wish) -> Reading:
    """Read a `.svec` file's directions, signs as they are."""
    raw = read_json(place)
    directions = raw.get("directions")
    if not isinstance(directions, dict):
        refuse(
            place,
            "directions",
            type(directions).__name__,
            "an object {layer: numbers}",
            FETCH_AGAIN,
        )
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        refuse(place, "model_type", repr(model_type), "a string", FETCH_AGAIN)
    by_layer = {layer_number(place, "directions", key): key for key in directions}
    if len(by_layer) != len(directions):
        refuse(place, "directions", sorted(directions), "each layer once", FETCH_AGAIN)
    layers = chosen(place, by_layer, wish)
    fields = {layer: f"directions.{key}" for layer, key in layers.items()}
    return Reading(
        place=place,
        form="vector",
        site=wish.site or "resid_pre",
        layers={
            layer: {"direction": numbers(place, fields[layer], directions[key], 1)}
            for layer, key in layers.items()
        },
        fields=fields,
        model_type=model_type,
        notes=() if wish.site else (WHERE_ADDED,),
    )


register(
    Format(
        "svec",
        "IBM activation-steering vectors (.svec)",
        read_svec,
        sites=("resid_pre", "resid_post"),
        takes=frozenset({"layer", "site"}),
    )
)
