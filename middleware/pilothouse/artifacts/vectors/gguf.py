"""Control vectors in GGUF, as repeng and llama.cpp write them.

`general.architecture` is "controlvector", `controlvector.model_hint` a model type, and each tensor
`direction.N` a direction [D] that is added to the *output* of the 0-based block N: `resid_post`.

The reader is ours and bounded: versions 2 and 3, little-endian, plain float tensors, and every
length is checked against what is left of the file before anything is read or made. The library's
`gguf.GGUFReader` makes an object of each number of an array and believes its count, so that a file
of 1 MB took more than 20 seconds and one of 60 bytes had no end.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.chosen import chosen
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.artifacts.vectors.registry import Format, register
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, MAX_ELEMENTS, numbers, read_bytes

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES = 4096
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
FLOATS: Mapping[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    28: np.dtype("<f8"),
}
DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,3})")
ARCHITECTURE = "controlvector"
FIRST_BLOCK = "direction.0 edits the output of block 0; llama.cpp would refuse the file for it"


def read_control_vector(place: Path, wish: Wish) -> Reading:
    """Read a control vector's directions, at `resid_post` of the layers that their names say."""
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


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """Fields by key; arrays among them are left out. Tensors by name."""

    fields: Mapping[str, str | int | float | bool]
    tensors: Mapping[str, NDArray[Any]]


def read_gguf(place: Path, data: bytes) -> GgufFile:
    """Read the fields and tensors of a GGUF file.

    Raises:
        ArtefactError: not GGUF, another version, truncated, or anything beyond the bounds.
    """
    cursor = _Cursor(place, data)
    if cursor.take(4, "magic") != MAGIC:
        refuse(place, "magic", repr(data[:4]), repr(MAGIC), FETCH_AGAIN)
    version = cursor.number("I", "version")
    if version not in VERSIONS:
        refuse(
            place,
            "version",
            version,
            f"one of {list(VERSIONS)}, little-endian",
            "write the file again with a current gguf library",
        )
    tensor_count = cursor.count("tensor_count")
    field_count = cursor.count("metadata_kv_count")
    fields = _fields(cursor, field_count)
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    start = _aligned(place, cursor.position, fields.get("general.alignment", DEFAULT_ALIGNMENT))
    tensors: dict[str, NDArray[Any]] = {}
    for info in infos:
        if info.name in tensors:
            refuse(place, info.name[:64], "a tensor twice", "each tensor once", FETCH_AGAIN)
        tensors[info.name] = info.read(place, data, start)
    return GgufFile(fields, tensors)


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    def read(self, place: Path, data: bytes, start: int) -> NDArray[Any]:
        first = start + self.offset
        size = prod(self.shape) * self.dtype.itemsize
        if first + size > len(data):
            refuse(
                place,
                self.name[:64],
                f"{max(0, len(data) - first)} bytes",
                f"{size} bytes",
                FETCH_AGAIN,
            )
        return np.frombuffer(data, self.dtype, prod(self.shape), first).reshape(self.shape)


@dataclass(slots=True)
class _Cursor:
    place: Path
    data: bytes
    position: int = 0

    def take(self, size: int, field: str) -> bytes:
        left = len(self.data) - self.position
        if size > left:
            refuse(
                self.place, field, f"{left} bytes left in the file", f"{size} bytes", FETCH_AGAIN
            )
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, code: str, field: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), field))[0]

    def count(self, field: str) -> int:
        value = int(self.number("Q", field))
        if value > MAX_ENTRIES:
            refuse(self.place, field, value, f"at most {MAX_ENTRIES}", FETCH_AGAIN)
        return value

    def text(self, field: str) -> str:
        raw = self.take(int(self.number("Q", field)), field)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            refuse(self.place, field, f"{error}", "UTF-8", FETCH_AGAIN)


def _fields(cursor: _Cursor, count: int) -> dict[str, str | int | float | bool]:
    fields: dict[str, str | int | float | bool] = {}
    for _ in range(count):
        key = cursor.text("metadata key")
        if key in fields:
            refuse(cursor.place, key[:64], "a field twice", "each field once", FETCH_AGAIN)
        kind = cursor.number("I", key)
        if kind == ARRAY:
            _skip_array(cursor, key)
        else:
            fields[key] = _value(cursor, key, kind)
    return fields


def _value(cursor: _Cursor, key: str, kind: int) -> str | int | float | bool:
    if kind == STRING:
        return cursor.text(key)
    if kind not in SCALARS:
        refuse(cursor.place, key[:64], f"type {kind}", "a type that GGUF has", FETCH_AGAIN)
    value: int | float | bool = cursor.number(SCALARS[kind], key)
    return value


def _skip_array(cursor: _Cursor, key: str) -> None:
    kind, count = cursor.number("I", key), cursor.number("Q", key)
    if kind in SCALARS:
        cursor.take(count * struct.calcsize("<" + SCALARS[kind]), key)
    elif kind == STRING and count <= len(cursor.data):
        for _ in range(count):
            cursor.text(key)
    else:
        refuse(
            cursor.place, key[:64], f"{count} values of type {kind}", "a flat array", FETCH_AGAIN
        )


def _tensor_info(cursor: _Cursor) -> _TensorInfo:
    name = cursor.text("tensor name")
    dimensions = cursor.number("I", name)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        refuse(
            cursor.place,
            name[:64],
            f"{dimensions} dimensions",
            f"1 to {MAX_DIMENSIONS}",
            FETCH_AGAIN,
        )
    # GGUF gives the fastest dimension first.
    shape = tuple(cursor.number("Q", name) for _ in range(dimensions))[::-1]
    kind, offset = cursor.number("I", name), cursor.number("Q", name)
    if prod(shape) > MAX_ELEMENTS:
        refuse(
            cursor.place,
            name[:64],
            f"shape {list(shape)}",
            f"at most {MAX_ELEMENTS} numbers",
            FETCH_AGAIN,
        )
    if kind not in FLOATS:
        refuse(
            cursor.place,
            name[:64],
            f"tensor type {kind}",
            "F32, F16 or F64, not quantised",
            "write the vector again in F32",
        )
    return _TensorInfo(name, shape, FLOATS[kind], offset)


def _aligned(place: Path, position: int, alignment: object) -> int:
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not 0 < alignment <= 65536:
        refuse(place, "general.alignment", repr(alignment), "1 to 65536", FETCH_AGAIN)
    return -(-position // alignment) * alignment


register(
    Format(
        "gguf",
        "repeng and llama.cpp control vectors (.gguf)",
        read_control_vector,
        sites=("resid_post",),
        takes=frozenset({"layer"}),
    )
)
