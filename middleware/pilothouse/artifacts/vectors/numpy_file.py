"""A `.npy` file without objects: one direction [D], or one row for each layer [L, D].

The file says nothing of layers, so `layers` says which row belongs where.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.rows import STREAM_AND_NEURONS, rows_at
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, MAX_ELEMENTS, read_bytes
from pilothouse.errors import ArtefactError

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
READ_MAGIC: Callable[[io.BytesIO], tuple[int, int]] = np.lib.format.read_magic
READ_HEADER: Mapping[tuple[int, int], Callable[[io.BytesIO], Header]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
NO_OBJECTS = "save the numbers alone: np.save(path, np.asarray(direction, dtype=np.float32))"


def read_npy(place: Path, wish: Wish) -> Reading:
    """Read the rows of a `.npy` file, in the order in which the wish names their layers."""
    array = npy_array(place, read_bytes(place))
    return Reading(
        place=place,
        form="vector",
        site=wish.site or "resid_post",
        layers=rows_at(place, "array", array, wish.layer_numbers),
        fields=dict.fromkeys(wish.layer_numbers, "array"),
    )


def npy_header(place: Path, file: io.BytesIO) -> Header:
    """Read shape, Fortran order and dtype of a `.npy` file, up to where its data begin.

    Raises:
        ArtefactError: it is no `.npy` file of version 1 or 2.
    """
    try:
        version = READ_MAGIC(file)
        if version not in READ_HEADER:
            refuse(place, "version", version, f"one of {list(READ_HEADER)}", FETCH_AGAIN)
        return READ_HEADER[version](file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        if isinstance(error, ArtefactError):
            raise
        refuse(place, "header", f"{type(error).__name__}: {error}", "a .npy file", FETCH_AGAIN)


def npy_array(place: Path, data: bytes) -> NDArray[Any]:
    """Return the array of a `.npy` file of plain numbers, exactly as long as its header says.

    Raises:
        ArtefactError: objects, records, truncated, or longer.
    """
    file = io.BytesIO(data)
    shape, fortran, dtype = npy_header(place, file)
    if dtype.hasobject or dtype.kind != "f":
        refuse(place, "dtype", dtype, "floating-point numbers, no objects", NO_OBJECTS)
    if any(each < 0 for each in shape) or prod(shape) > MAX_ELEMENTS:
        refuse(place, "shape", list(shape), f"at most {MAX_ELEMENTS} numbers", FETCH_AGAIN)
    left, wanted = len(data) - file.tell(), prod(shape) * dtype.itemsize
    if left != wanted:
        refuse(
            place, "array", f"{left} bytes", f"{wanted} bytes for shape {list(shape)}", FETCH_AGAIN
        )
    flat = np.frombuffer(data, dtype, prod(shape), file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


register(
    Format(
        "npy",
        "one row for each layer (.npy, no objects)",
        read_npy,
        sites=STREAM_AND_NEURONS,
        takes=frozenset({"site"}),
        needs=frozenset({"layer"}),
    )
)
