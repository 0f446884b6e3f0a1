"""refusal_direction's `direction.pt`: a tensor [D], with `direction_metadata.json` {pos, layer}.

The direction is a mean difference, harmful less harmless, at the *input* of the block `layer`:
`resid_pre`. It is not of length 1.
"""

from __future__ import annotations

from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers, read_json, whole_number
from pilothouse.artifacts.vectors.state import read_pickled
from pilothouse.errors import ConfigError, argument

DIRECTION_FILE = "direction.pt"
METADATA_FILE = "direction_metadata.json"
MAX_METADATA_BYTES = 1 << 16
HOW = "as the paper does, ablate it with sites: writers; with op: add it makes the model refuse"


def read_refusal_direction(place: Path, wish: Wish) -> Reading:
    """Read the direction of a run's folder, or of a file beside its metadata, at `resid_pre`."""
    file = place / DIRECTION_FILE if place.is_dir() else place
    layer = _layer(file.parent / METADATA_FILE, wish)
    direction = read_pickled(file, wish)
    return Reading(
        place=file,
        form="vector",
        site="resid_pre",
        layers={layer: {"direction": numbers(file, "direction", direction, 1)}},
        fields={layer: "direction"},
        notes=(HOW,),
    )


def _layer(metadata: Path, wish: Wish) -> int:
    given = wish.layer_numbers
    if len(given) > 1:
        raise ConfigError(
            f"{argument('layers')}: got {list(given)}, the file has one direction: name one layer"
        )
    if not metadata.is_symlink() and not metadata.exists():
        if not given:
            refuse(
                metadata,
                "file",
                "nothing",
                "the layer of the direction",
                f"put direction_metadata.json beside it, or say {argument('layers', 'N')}",
            )
        return given[0]
    layer = whole_number(metadata, "layer", read_json(metadata, MAX_METADATA_BYTES).get("layer"))
    if given and given[0] != layer:
        refuse(
            metadata,
            "layer",
            layer,
            f"{given[0]} as {argument('layers')} says",
            f"leave {argument('layers')} out, or give the direction that it is for",
        )
    if layer >= 4096:
        refuse(metadata, "layer", layer, "a layer below 4096", FETCH_AGAIN)
    return layer


register(
    Format(
        "refusal-direction",
        "refusal_direction runs (direction.pt)",
        read_refusal_direction,
        sites=("resid_pre",),
        takes=frozenset({"layer"}),
        pickled=True,
    )
)
