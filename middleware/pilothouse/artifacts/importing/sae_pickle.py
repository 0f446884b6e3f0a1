"""Pickled weights of SAEs as safetensors beside what their folder has, for an import alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.folder import MAX_MANIFEST_BYTES, read_file, refuse
from pilothouse.artifacts.saes.mapped_file import write_safetensors
from pilothouse.artifacts.saes.matrix import Matrix
from pilothouse.artifacts.saes.registry import FEATURES_FILE, LABELS_FILE, MAX_LABELS_BYTES

MAX_TENSORS = 32
BESIDE = {
    "config.json": MAX_MANIFEST_BYTES,
    "metadata.yaml": MAX_MANIFEST_BYTES,
    FEATURES_FILE: 1 << 30,
    LABELS_FILE: MAX_LABELS_BYTES,
}
"""What is taken along, and the most bytes of each."""


def pickle_of(folder: Path, format_name: str, layer: int | None) -> Path | None:
    """The pickle that has the weights of a folder's SAE, where safetensors are not beside it."""
    stem = {
        "dictionary_learning": "ae",
        "qwen-scope": f"layer{layer}.sae",
        "itda": "atoms",
        "top-afa": "sae",
    }.get(format_name)
    if stem is None or (format_name == "qwen-scope" and layer is None):
        return None
    place = folder / f"{stem}.pt"
    beside = (folder / f"{stem}.safetensors").is_file()
    return place if place.is_file() and not beside else None


def converted(place: Path, room: Path) -> Path:
    """A folder in `room`, named as the pickle's own, with safetensors in the pickle's place.

    Raises:
        ArtefactError: a pickle that a weights-only load refuses, or that holds more than tensors.
    """
    from pilothouse.artifacts.importing.pickled import (  # torch takes seconds to import
        SAE_BOUNDS,
        read_torch,
    )

    folder = room / place.parent.resolve().name
    folder.mkdir()
    for name, limit in BESIDE.items():
        if (place.parent / name).is_file():
            (folder / name).write_bytes(read_file(place.parent / name, limit))
    state = read_torch(place, SAE_BOUNDS)
    write_safetensors(folder / f"{place.stem}.safetensors", _tensors(place, state))
    return folder


def _tensors(place: Path, state: object) -> dict[str, Matrix]:
    from pilothouse.artifacts.importing.pickled import SAVE_PLAIN

    if isinstance(state, np.ndarray):
        # ITDA saves its one tensor without a name.
        state = {place.stem: state}
    if not isinstance(state, dict) or not 0 < len(state) <= MAX_TENSORS:
        got = f"{len(state)} entries" if isinstance(state, dict) else type(state).__name__
        refuse(place, "content", got, f"a dict of 1 to {MAX_TENSORS} tensors", SAVE_PLAIN)
    if "norm_factor" in state:
        refuse(
            place,
            "norm_factor",
            "one beside the SAE",
            "the weights alone",
            "this is a checkpoint from within training: take the ae.pt of its end",
        )
    return {str(name)[:64]: _matrix(place, str(name)[:64], each) for name, each in state.items()}


def _matrix(place: Path, name: str, value: Any) -> Matrix:
    from pilothouse.artifacts.importing.pickled import SAVE_PLAIN

    if isinstance(value, bool) or not isinstance(value, np.ndarray | int | float):
        refuse(place, name, type(value).__name__, "a tensor", SAVE_PLAIN)
    array = np.asarray(value)
    if array.dtype.kind not in "fi" or array.ndim > 3 or array.size == 0:
        refuse(
            place,
            name,
            f"{array.dtype} of shape {list(array.shape)}",
            "1 to 3 sizes of floats",
            SAVE_PLAIN,
        )
    if array.dtype.kind == "i" and array.dtype.itemsize < 4:
        array = array.astype(np.int32)
    return Matrix(array)


def discard(room: Path) -> None:
    """Remove what `converted` wrote."""
    shutil.rmtree(room, ignore_errors=True)
