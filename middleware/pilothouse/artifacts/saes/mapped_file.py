"""Safetensors, mapped: an SAE of gigabytes costs no memory until its rows are read.

The reader is ours: `safetensors.safe_open` checks the same, but copies each tensor or slice that it
gives, and has no bfloat16 for numpy, in which most SAEs come.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.folder import PICKLE_HEADS, open_plain, parse_json, refuse
from pilothouse.artifacts.saes.matrix import Matrix

MAX_HEADER_BYTES = 1 << 20
"""An SAE has a dozen tensors."""
FETCH = "fetch the file anew from its source and compare its size"
TYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}

ALIGNMENT = 8
PART_BITS = 26
"""Two to this power, 64 MiB, is about how much is copied at once."""
Stored = dict[str, Matrix]


def map_safetensors(place: Path) -> tuple[Stored, str]:
    """Map the tensors of a file, and return the SHA-256 of all its bytes.

    Raises:
        ArtefactError: no plain file, a pickle, cut off, or with tensors that overlap or lie
            outside of it.
    """
    memory = _mapping(place)
    # One header in 32 has a length whose first byte is a pickle's; behind it stands a brace.
    if memory[:4].startswith(PICKLE_HEADS) and memory[8:9] != b"{":
        refuse(
            place,
            "content",
            "a pickle or a PyTorch archive",
            "safetensors",
            "convert the weights to safetensors; pickles are never read",
        )
    length = int.from_bytes(memory[:8], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(memory) - 8):
        refuse(
            place,
            "header",
            f"{length} bytes in a file of {len(memory)}",
            f"2 to {MAX_HEADER_BYTES}, inside the file",
            FETCH,
        )
    header = parse_json(place, memory[8 : 8 + length])
    header.pop("__metadata__", None)
    start, end = 8 + length, 0
    stored: Stored = {}
    for name, about in sorted(header.items(), key=lambda item: _begin(place, *item)):
        dtype, shape, span = _described(place, name, about)
        if span[0] != end or span[1] > len(memory) - start:
            refuse(
                place,
                f"{name}.data_offsets",
                list(span),
                f"bytes from {end}, inside the file's {len(memory) - start}",
                FETCH,
            )
        end = span[1]
        raw = np.frombuffer(memory, TYPES[dtype], math.prod(shape), start + span[0])
        stored[name] = Matrix(raw.reshape(shape), is_bfloat16=dtype == "BF16")
    if start + end != len(memory):
        refuse(
            place, "size", f"{len(memory)} bytes", f"{start + end} bytes, as its header says", FETCH
        )
    return stored, hashlib.sha256(memory).hexdigest()


def map_converted(place: Path, pickled: Path) -> tuple[Stored, str]:
    """Map weights that their library pickles, as `map_safetensors` does.

    Raises:
        ArtefactError: as `map_safetensors`, or there is only the pickle.
    """
    if not os.path.lexists(place) and os.path.lexists(pickled):
        refuse(
            pickled,
            "file",
            "a pickle",
            f"{place.name} beside it",
            "convert it offline with `pilothouse sae import --allow-pickle-weights`; pickles "
            "are never read in serving",
        )
    return map_safetensors(place)


def write_safetensors(
    place: Path, tensors: Stored, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors in the types that they have, part by part, the widest first."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].raw.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.raw.nbytes
        header[name] = {
            "dtype": _tag(tensor),
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(place, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            for part in np.array_split(tensor.raw, max(1, tensor.raw.nbytes >> PART_BITS)):
                file.write(np.ascontiguousarray(part).tobytes())


def _tag(tensor: Matrix) -> str:
    if tensor.is_bfloat16:
        return "BF16"
    (tag,) = (tag for tag, each in TYPES.items() if each == tensor.raw.dtype and tag != "BF16")
    return tag


def _mapping(place: Path) -> mmap.mmap:
    with open_plain(place) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 10:
            refuse(place, "file", f"{size} bytes", "a plain file of safetensors", FETCH)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _begin(place: Path, name: str, about: object) -> tuple[int, int]:
    return _described(place, name, about)[2]


def _described(
    place: Path, name: str, about: object
) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    match about:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            refuse(place, name, about, "dtype, shape and data_offsets", FETCH)
    if dtype not in TYPES:
        refuse(
            place,
            f"{name}.dtype",
            repr(dtype),
            f"one of {sorted(TYPES)}",
            "convert the weights to a float type; quantised SAEs are not read",
        )
    if not all(isinstance(each, int) and 0 < each <= 1 << 32 for each in shape) or len(shape) > 3:
        refuse(place, f"{name}.shape", shape, "at most three positive sizes", FETCH)
    want = math.prod(shape) * TYPES[dtype].itemsize
    if begin < 0 or end - begin != want:
        refuse(place, f"{name}.data_offsets", [begin, end], f"{want} bytes for {shape}", FETCH)
    return dtype, tuple(shape), (begin, end)
