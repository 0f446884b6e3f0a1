"""PyTorch files by a weights-only load, for offline conversion. Serving imports none of this.

`torch.load(weights_only=True)` builds tensors and plain containers and calls nothing else that a
file names. Around it: archives that are compressed or not what their index says are refused before
torch sees them, and what comes out is turned into arrays and plain values within bounds.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from pilothouse.model.artefact import PICKLE_HEADS, refuse
from pilothouse.model.formats.source import FETCH_AGAIN, MAX_ELEMENTS, MAX_FILE_BYTES, read_bytes

MAX_ENTRIES = 16384
MAX_VALUES = 1 << 22
MAX_DEPTH = 8
PLAIN_FLOATS = (torch.float16, torch.float32, torch.float64)
SAVE_PLAIN = (
    "where the file was made, save its tensors alone: torch.save({name: tensor, ...}, path), or "
    "safetensors.torch.save_file"
)


class ObjectParts:
    """Stands for an object whose class is not loaded: what it had as attributes, nothing else."""


STAND_INS = ("steering_vectors.steering_vector.SteeringVector",)


def read_torch(place: Path) -> object:
    """What a PyTorch file holds: dicts, lists and plain values, with arrays for tensors.

    Raises:
        ArtefactError: not a PyTorch file, hostile, or holding what a weights-only load refuses.
    """
    data = read_bytes(place)
    if data.startswith(b"PK"):
        _check_archive(place, data)
    elif not data.startswith(PICKLE_HEADS):
        refuse(place, "content", repr(data[:8]), "a file that torch.save wrote", FETCH_AGAIN)
    try:
        with (
            torch.serialization.safe_globals([(ObjectParts, name) for name in STAND_INS]),
            warnings.catch_warnings(action="ignore"),
        ):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # What a broken pickle can raise has no end.
    except Exception as error:
        lines = str(error).splitlines() or [""]
        reasons = [line for line in lines if "GLOBAL" in line or "nsupported" in line] or lines[:1]
        refuse(place, "content", f"{type(error).__name__}: {reasons[0].strip()}",
               "tensors in plain containers, which a weights-only load can read",
               SAVE_PLAIN)  # fmt: skip
    return _Plain(place).value("file", loaded, 0)


def _check_archive(place: Path, data: bytes) -> None:
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        refuse(place, "archive", f"{type(error).__name__}: {error}", "a whole zip archive",
               FETCH_AGAIN)  # fmt: skip
    if len(entries) > MAX_ENTRIES:
        refuse(place, "archive", f"{len(entries)} entries", f"at most {MAX_ENTRIES}", FETCH_AGAIN)
    for entry in entries:
        parts = entry.filename.split("/")
        if ".." in parts or parts[0] == "" or "\\" in entry.filename:
            refuse(place, "archive", f"entry {entry.filename!r}", "names inside the archive",
                   FETCH_AGAIN)  # fmt: skip
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            refuse(place, entry.filename[:64], f"compressed, {entry.file_size} bytes from "
                   f"{entry.compress_size}", "entries stored as they are, as torch.save does",
                   "save it again by torch.save")  # fmt: skip
    if sum(entry.file_size for entry in entries) > min(len(data), MAX_FILE_BYTES):
        refuse(place, "archive", "entries that overlap", "entries side by side", FETCH_AGAIN)


class _Plain:
    """Turns what was loaded into plain values, within bounds."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.left = MAX_VALUES

    def value(self, field: str, loaded: object, depth: int) -> object:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            refuse(self.place, field[:64], "values without end",
                   f"at most {MAX_VALUES} values, {MAX_DEPTH} deep", FETCH_AGAIN)  # fmt: skip
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
            refuse(self.place, field[:64], type(loaded).__name__, "tensors and plain values",
                   SAVE_PLAIN)  # fmt: skip
        return [self.value(field, each, depth + 1) for each in loaded]

    def _key(self, field: str, key: object) -> str | int:
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            refuse(self.place, field[:64], f"a key of type {type(key).__name__}", "names or layers",
                   SAVE_PLAIN)  # fmt: skip
        return key

    def _array(self, field: str, tensor: torch.Tensor) -> Any:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            refuse(self.place, field[:64], f"a tensor of layout {tensor.layout} on {tensor.device}",
                   "a dense tensor with its numbers", SAVE_PLAIN)  # fmt: skip
        if tensor.numel() > MAX_ELEMENTS:
            refuse(self.place, field[:64], f"shape {list(tensor.shape)}",
                   f"at most {MAX_ELEMENTS} numbers", FETCH_AGAIN)  # fmt: skip
        plain = tensor.detach()
        if plain.is_floating_point() and plain.dtype not in PLAIN_FLOATS:
            plain = plain.float()
        return plain.numpy()
