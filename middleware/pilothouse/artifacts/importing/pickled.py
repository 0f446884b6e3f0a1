"""PyTorch files by a weights-only load, for offline conversion. Serving imports none of this.

`torch.load(weights_only=True)` builds tensors and plain containers and calls nothing else that a
file names. Around it: archives that are compressed or not what their index says are refused before
torch sees them, and what comes out is turned into arrays and plain values within bounds.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from pilothouse.artifacts.folder import PICKLE_HEADS, open_plain, refuse
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, MAX_ELEMENTS, MAX_FILE_BYTES

MAX_ENTRIES = 16384
MAX_VALUES = 1 << 22
MAX_DEPTH = 8
PLAIN_FLOATS = (torch.float16, torch.float32, torch.float64)
SAVE_PLAIN = (
    "where the file was made, save its tensors alone: torch.save({name: tensor, ...}, path), or "
    "safetensors.torch.save_file"
)


class Bounds(NamedTuple):
    """The largest file, and the most numbers of one tensor."""

    file_bytes: int
    elements: int


VECTOR_BOUNDS = Bounds(MAX_FILE_BYTES, MAX_ELEMENTS)
SAE_BOUNDS = Bounds(16 << 30, 1 << 32)


class ObjectParts:
    """Stands for an object whose class is not loaded: what it had as attributes, nothing else."""


STAND_INS = ("steering_vectors.steering_vector.SteeringVector",)


def read_torch(place: Path, bounds: Bounds = VECTOR_BOUNDS) -> object:
    """Read what a PyTorch file holds: dicts, lists and plain values, with arrays for tensors.

    Raises:
        ArtefactError: not a PyTorch file, hostile, or holding what a weights-only load refuses.
    """
    with open_plain(place) as file:
        _check_head(place, file, bounds)
        try:
            with (
                torch.serialization.safe_globals([(ObjectParts, name) for name in STAND_INS]),
                warnings.catch_warnings(action="ignore"),
            ):
                loaded = torch.load(file, map_location="cpu", weights_only=True)
        # What a broken pickle can raise has no end.
        except Exception as error:
            lines = str(error).splitlines() or [""]
            reasons = [each for each in lines if "GLOBAL" in each or "nsupported" in each]
            told = (reasons or lines)[0].strip()
            refuse(
                place,
                "content",
                f"{type(error).__name__}: {told}",
                "tensors in plain containers, which a weights-only load can read",
                SAVE_PLAIN,
            )
    return _Plain(place, bounds).value("file", loaded, 0)


def _check_head(place: Path, file: BinaryIO, bounds: Bounds) -> None:
    size = os.fstat(file.fileno()).st_size
    if not 0 < size <= bounds.file_bytes:
        refuse(place, "size", f"{size} bytes", f"1 to {bounds.file_bytes} bytes", FETCH_AGAIN)
    head = file.read(8)
    if head.startswith(b"PK"):
        _check_archive(place, file, size)
    elif not head.startswith(PICKLE_HEADS):
        refuse(place, "content", repr(head), "a file that torch.save wrote", FETCH_AGAIN)
    file.seek(0)


def _check_archive(place: Path, file: BinaryIO, size: int) -> None:
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        refuse(
            place, "archive", f"{type(error).__name__}: {error}", "a whole zip archive", FETCH_AGAIN
        )
    if len(entries) > MAX_ENTRIES:
        refuse(place, "archive", f"{len(entries)} entries", f"at most {MAX_ENTRIES}", FETCH_AGAIN)
    for entry in entries:
        parts = entry.filename.split("/")
        if ".." in parts or parts[0] == "" or "\\" in entry.filename:
            refuse(
                place,
                "archive",
                f"entry {entry.filename!r}",
                "names inside the archive",
                FETCH_AGAIN,
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            refuse(
                place,
                entry.filename[:64],
                f"compressed, {entry.file_size} bytes from {entry.compress_size}",
                "entries stored as they are, as torch.save does",
                "save it again by torch.save",
            )
    if sum(entry.file_size for entry in entries) > size:
        refuse(place, "archive", "entries that overlap", "entries side by side", FETCH_AGAIN)


class _Plain:
    """Turns what was loaded into plain values, within bounds."""

    def __init__(self, place: Path, bounds: Bounds) -> None:
        self.place = place
        self.bounds = bounds
        self.left = MAX_VALUES

    def value(self, field: str, loaded: object, depth: int) -> object:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            refuse(
                self.place,
                field[:64],
                "values without end",
                f"at most {MAX_VALUES} values, {MAX_DEPTH} deep",
                FETCH_AGAIN,
            )
        if loaded is None or isinstance(loaded, (bool, int, float, str)):
            return loaded
        if isinstance(loaded, torch.Tensor):
            return self._array(field, loaded)
        if isinstance(loaded, ObjectParts):
            loaded = vars(loaded)
        if isinstance(loaded, dict):
            return {
                self._key(field, key): self.value(f"{field}.{key}", each, depth + 1)
                for key, each in loaded.items()
            }
        if not isinstance(loaded, (list, tuple)):
            refuse(
                self.place,
                field[:64],
                type(loaded).__name__,
                "tensors and plain values",
                SAVE_PLAIN,
            )
        return [self.value(field, each, depth + 1) for each in loaded]

    def _key(self, field: str, key: object) -> str | int:
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            refuse(
                self.place,
                field[:64],
                f"a key of type {type(key).__name__}",
                "names or layers",
                SAVE_PLAIN,
            )
        return key

    def _array(self, field: str, tensor: torch.Tensor) -> Any:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            refuse(
                self.place,
                field[:64],
                f"a tensor of layout {tensor.layout} on {tensor.device}",
                "a dense tensor with its numbers",
                SAVE_PLAIN,
            )
        if tensor.numel() > self.bounds.elements:
            refuse(
                self.place,
                field[:64],
                f"shape {list(tensor.shape)}",
                f"at most {self.bounds.elements} numbers",
                FETCH_AGAIN,
            )
        plain = tensor.detach()
        if plain.is_floating_point() and plain.dtype not in PLAIN_FLOATS:
            plain = plain.float()
        return plain.numpy()
