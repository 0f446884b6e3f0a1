"""Bytes, JSON and numbers out of files that nobody vouches for. Nothing here executes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import parse_json, read_file, refuse
from pilothouse.artifacts.vectors.reading import Floats
from pilothouse.errors import argument

MAX_FILE_BYTES = 1 << 30
MAX_JSON_BYTES = 256 << 20
MAX_ELEMENTS = 1 << 26
"""The most numbers of one array: 256 MiB in float32, a low-rank map of width 16,384, rank 4,096."""

FETCH_AGAIN = (
    f"fetch the file anew from its source, or check that {argument('format_name')} names its layout"
)


def read_bytes(place: Path, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read all bytes of a plain file that is no link.

    Raises:
        ArtefactError: missing, linked, no plain file, empty, or longer than the limit.
    """
    data = read_file(place, limit_bytes, FETCH_AGAIN)
    if not data:
        refuse(place, "size", "0 bytes", "a file with something in it", FETCH_AGAIN)
    return data


def read_json(place: Path, limit_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read the JSON object in a file; NaN, infinities and fields that stand twice are refused."""
    return parse_json(place, read_bytes(place, limit_bytes), FETCH_AGAIN)


def numbers(place: Path, field: str, value: object, dimensions: int) -> Floats:
    """Return a checked value of a file as float32, without a leading dimension of size 1 too many.

    Raises:
        ArtefactError: no array of real numbers, another number of dimensions, empty, too large,
            NaN or infinite (in float32).
    """
    array = _array(place, field, value)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        refuse(place, field, f"dtype {array.dtype}", "real floating-point numbers", FETCH_AGAIN)
    if array.ndim == dimensions + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != dimensions:
        refuse(place, field, f"shape {list(array.shape)}", f"{dimensions} dimensions", FETCH_AGAIN)
    if not 0 < array.size <= MAX_ELEMENTS:
        refuse(place, field, f"{array.size} numbers", f"1 to {MAX_ELEMENTS}", FETCH_AGAIN)
    with np.errstate(over="ignore"):
        floats: Floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        bad = int((~np.isfinite(floats)).sum())
        refuse(
            place,
            field,
            f"{bad} values that are NaN or infinite in float32",
            "finite values",
            FETCH_AGAIN,
        )
    return floats


def whole_number(place: Path, field: str, value: object) -> int:
    """Return a value of a file as an int from 0.

    Raises:
        ArtefactError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        refuse(place, field, repr(value), "a whole number from 0", FETCH_AGAIN)
    return value


def layer_number(place: Path, field: str, value: object) -> int:
    """Return a key or value of a file as a layer: a whole number, or decimal digits.

    Raises:
        ArtefactError: it is none, or not below 4096.
    """
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 4:
        refuse(place, field, repr(value), "the number of a layer, from 0", FETCH_AGAIN)
    if int(text) >= 4096:
        refuse(place, field, repr(value), "a layer below 4096", FETCH_AGAIN)
    return int(text)


def _array(place: Path, field: str, value: object) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, list):
        refuse(place, field, type(value).__name__, "an array of numbers", FETCH_AGAIN)
    if len(value) > MAX_ELEMENTS:
        refuse(place, field, f"{len(value)} numbers", f"1 to {MAX_ELEMENTS}", FETCH_AGAIN)
    flat = [each for row in value for each in (row if isinstance(row, list) else [row])]
    wrong = [each for each in flat if isinstance(each, bool) or not isinstance(each, (int, float))]
    if wrong:
        refuse(place, field, repr(wrong[0]), "numbers only", FETCH_AGAIN)
    try:
        return np.array(value, dtype=np.float64)
    except (ValueError, OverflowError) as error:
        refuse(place, field, f"{type(error).__name__}: {error}", "rows of one length", FETCH_AGAIN)
