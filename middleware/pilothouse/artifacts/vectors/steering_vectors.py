"""Vectors of the steering-vectors library, saved by `torch.save`.

An object, or a dict, with `layer_activations` {layer: tensor [D]} and `layer_type`. The library
adds at the *output* of the module that the type names; its class is never imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, layer_number, numbers
from pilothouse.artifacts.vectors.state import read_state
from pilothouse.types import Site

SITES: Mapping[str, Site] = {
    "decoder_block": "resid_post",
    "self_attn": "attn_out",
    "mlp": "mlp_out",
}


def read_steering_vector(place: Path, wish: Wish) -> Reading:
    """Read a steering vector's directions, at the outputs that its `layer_type` names."""
    state = read_state(place, wish, ("layer_activations", "layer_type"))
    layer_type, activations = state["layer_type"], state["layer_activations"]
    if layer_type not in SITES:
        refuse(
            place,
            "layer_type",
            repr(layer_type),
            f"one of {sorted(SITES)}",
            "the output of a norm is no site: fit the vector at a block's output",
        )
    if not isinstance(activations, dict):
        refuse(
            place, "layer_activations", type(activations).__name__, "{layer: tensor}", FETCH_AGAIN
        )
    by_layer = {layer_number(place, "layer_activations", key): key for key in activations}
    if len(by_layer) != len(activations):
        refuse(place, "layer_activations", list(activations), "each layer once", FETCH_AGAIN)
    layers = chosen(place, by_layer, wish)
    fields = {layer: f"layer_activations.{layer}" for layer in layers}
    return Reading(
        place=place,
        form="vector",
        site=SITES[layer_type],
        layers={
            layer: {"direction": numbers(place, fields[layer], activations[key], 1)}
            for layer, key in layers.items()
        },
        fields=fields,
    )


register(
    Format(
        "steering-vectors",
        "the steering-vectors library (torch.save)",
        read_steering_vector,
        sites=tuple(SITES.values()),
        takes=frozenset({"layer"}),
        pickled=True,
    )
)
