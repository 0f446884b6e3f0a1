"""Where a term edits: at its artefact's own taps, or at everything that writes to the stream."""

from __future__ import annotations

from typing import NamedTuple

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.operators import OPERATORS, operator_of
from pilothouse.edits.sources import Sources
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import PROJECTION_SITES, Site, Tap


class Place(NamedTuple):
    """A tap, and the layer of the artefact whose numbers are used there."""

    tap: Tap
    layer: int


def places_of(term: SteerTerm, sources: Sources) -> tuple[Place, ...]:
    """Return every tap at which a term edits, in the order of the layers.

    With `sites: writers` these are the embedding and what attention and MLP add at every layer,
    all with the direction of one layer: so the stream never has what is ablated (Arditi et al.,
    arXiv 2406.11717, section 2.4).

    Raises:
        RequestError: a layer that the artefact does not have, or writers with anything but the
            ablation of one layer's direction in the stream.
    """
    source = sources.of(term)
    layers = _layers(term, source)
    if term.sites == "own":
        return tuple(Place(Tap(layer, source.site), layer) for layer in layers)
    if isinstance(source, Sae):
        raise RequestError(
            f"steer: sites: got 'writers' with SAE {term.name!r}, want it with a vector",
            param="steer",
        )
    name = operator_of(term, source)
    if not OPERATORS[name].at_writers:
        raise RequestError(
            f"steer: sites: got 'writers' with {name!r}, want it with 'ablate'", param="steer"
        )
    if source.site in PROJECTION_SITES:
        raise RequestError(
            f"steer: sites: got 'writers' with {term.name!r}, which is at {source.site}; want a "
            "direction of the residual stream",
            param="steer",
        )
    if len(layers) != 1:
        raise RequestError(
            f"steer: sites: 'writers' ablates one direction, {term.name!r} has one at each of "
            f"layers {list(layers)}: choose one with `layers: [{layers[-1]}]`",
            param="steer",
        )
    return tuple(Place(tap, layers[0]) for tap in writers(sources.num_layers))


def writers(num_layers: int) -> tuple[Tap, ...]:
    """Return every tap where something is added to the residual stream."""
    added: tuple[Site, ...] = ("attn_out", "mlp_out")
    return (Tap(0, "embed"), *(Tap(layer, site) for layer in range(num_layers) for site in added))


def _layers(term: SteerTerm, source: Source | Sae) -> tuple[int, ...]:
    if term.layers is None:
        return source.layers
    for layer in term.layers:
        if layer not in source.layers:
            raise RequestError(
                f"steer: layers of {term.name!r}: got {layer}, want any of {list(source.layers)}",
                param="steer",
            )
    return tuple(sorted(set(term.layers)))
