"""Which of a file's layers are taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Wish
from pilothouse.artifacts.vectors.source import FETCH_AGAIN
from pilothouse.errors import argument

T = TypeVar("T")


def chosen(place: Path, by_layer: Mapping[int, T], wish: Wish) -> dict[int, T]:
    """Return the layers that were wished for, all if none was; ascending.

    Raises:
        ArtefactError: the file has none at all, or not a layer that was wished for.
    """
    if not by_layer:
        refuse(place, "layers", "none", "numbers for at least one layer", FETCH_AGAIN)
    for layer in wish.layer_numbers:
        if layer not in by_layer:
            refuse(
                place,
                argument("layers"),
                layer,
                f"any of {sorted(by_layer)}",
                "name layers that the file has",
            )
    wanted = wish.layer_numbers or tuple(by_layer)
    return {layer: by_layer[layer] for layer in sorted(wanted)}
