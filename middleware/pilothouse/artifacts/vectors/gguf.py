"""Control vectors in GGUF, as repeng and llama.cpp write them.

`general.architecture` is "controlvector", `controlvector.model_hint` a model type, and each tensor
`direction.N` a direction [D] that is added to the *output* of the 0-based block N: `resid_post`.
"""

from __future__ import annotations

import re
from pathlib import Path

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.gguf_file import GgufFile, read_gguf
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers, read_bytes

DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,3})")
ARCHITECTURE = "controlvector"
FIRST_BLOCK = "direction.0 edits the output of block 0; llama.cpp would refuse the file for it"


def read_control_vector(place: Path, wish: Wish) -> Reading:
    """A control vector's directions, at `resid_post` of the layers that their names say."""
    file = read_gguf(place, read_bytes(place))
    architecture = file.fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        refuse(
            place,
            "general.architecture",
            repr(architecture),
            repr(ARCHITECTURE),
            "give a control vector; this GGUF is something else, perhaps a model",
        )
    layers = chosen(place, _directions(place, file), wish)
    return Reading(
        place=place,
        form="vector",
        site="resid_post",
        layers={
            layer: {"direction": numbers(place, name, file.tensors[name], 1)}
            for layer, name in layers.items()
        },
        fields=layers,
        model_type=_model_hint(place, file),
        notes=(FIRST_BLOCK,) if 0 in layers else (),
    )


def _directions(place: Path, file: GgufFile) -> dict[int, str]:
    by_layer: dict[int, str] = {}
    for name in file.tensors:
        match = DIRECTION.fullmatch(name)
        if match is None:
            refuse(
                place,
                name[:64],
                "a tensor of this name",
                "direction.N, N a block from 0",
                FETCH_AGAIN,
            )
        by_layer[int(match.group(1))] = name
    return by_layer


def _model_hint(place: Path, file: GgufFile) -> str | None:
    hint = file.fields.get("controlvector.model_hint")
    if hint is not None and not isinstance(hint, str):
        refuse(place, "controlvector.model_hint", repr(hint), "a string", FETCH_AGAIN)
    return hint or None


register(
    Format(
        "gguf",
        "repeng and llama.cpp control vectors (.gguf)",
        read_control_vector,
        sites=("resid_post",),
        takes=frozenset({"layer"}),
    )
)
