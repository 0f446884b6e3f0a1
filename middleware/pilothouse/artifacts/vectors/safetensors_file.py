"""Any `.safetensors` file with directions, by an explicit mapping of its tensors to layers.

It is `N=TENSOR` for each layer; with one tensor in the file, `N` for each of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Floats, Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.rows import STREAM_AND_NEURONS, rows_at
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, numbers, read_bytes
from pilothouse.errors import ConfigError, argument

PARSE: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
PLAIN: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read_safetensors(place: Path, wish: Wish) -> Reading:
    """Read the tensors that the wish names, each at its layer."""
    tensors = _tensors(place)
    named = [each.tensor for each in wish.layers]
    if any(named) and not all(named):
        raise ConfigError(
            where=argument("layers"),
            got="some with a tensor and some without",
            want="one way for all",
        )
    site = wish.site or "resid_post"
    layers: dict[int, dict[str, Floats]]
    if not any(named):
        name = _only(place, tensors)
        layers = rows_at(place, name, _array(place, name, tensors[name]), wish.layer_numbers)
        return Reading(place, "vector", site, layers, dict.fromkeys(wish.layer_numbers, name))
    fields = {each.layer: each.tensor or "" for each in wish.layers}
    for name in fields.values():
        if name not in tensors:
            refuse(
                place,
                name[:64],
                "no such tensor",
                f"one of {sorted(tensors)}",
                f"name with {argument('layers', 'N=TENSOR')} a tensor that the file has",
            )
    layers = {
        layer: {"direction": numbers(place, name, _array(place, name, tensors[name]), 1)}
        for layer, name in fields.items()
    }
    return Reading(place, "vector", site, layers, fields)


def _tensors(place: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(PARSE(read_bytes(place)))
    except (SafetensorError, ValueError, KeyError) as error:
        refuse(place, "content", f"{type(error).__name__}: {error}", "safetensors", FETCH_AGAIN)


def _only(place: Path, tensors: Mapping[str, object]) -> str:
    if len(tensors) != 1:
        refuse(
            place,
            "tensors",
            sorted(tensors),
            f"one tensor where {argument('layers')} names none",
            f"say {argument('layers', 'N=TENSOR')} for each layer",
        )
    return next(iter(tensors))


def _array(place: Path, name: str, tensor: Mapping[str, Any]) -> NDArray[Any]:
    dtype, data = str(tensor["dtype"]), bytes(tensor["data"])
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(tensor["shape"])
    if dtype not in PLAIN:
        refuse(place, name[:64], f"dtype {dtype}", f"one of {[*PLAIN, 'BF16']}", FETCH_AGAIN)
    return np.frombuffer(data, PLAIN[dtype]).reshape(tensor["shape"])


register(
    Format(
        "safetensors",
        "named tensors (.safetensors)",
        read_safetensors,
        sites=STREAM_AND_NEURONS,
        takes=frozenset({"site"}),
        needs=frozenset({"layer"}),
    )
)
