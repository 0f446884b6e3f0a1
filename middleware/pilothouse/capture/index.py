"""`index.json` of a capture: what it is of, and which files of rows are complete.

A file of rows (safetensors) has, for each row, the labels `prompt`, `position`, `token_id` (int32)
and `phase` (uint8: 0 prompt, 1 output), and an activation per place under `<site>/<layer>`. Its
tensor `ended` [E, 3] int32 has (prompt, prompt tokens, output tokens) of the prompts whose rows
all lie in this file and those before it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pilothouse.capture.order import CaptureOrder
from pilothouse.errors import ConfigError
from pilothouse.types import Site, Tap

INDEX_FILE = "index.json"
FORMAT: Literal["pilothouse-capture/1"] = "pilothouse-capture/1"
LABELS = ("prompt", "position", "token_id", "phase")
ENDED = "ended"
PROMPT_PHASE, OUTPUT_PHASE = 0, 1


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CapturedModel(_Closed):
    """The model whose activations these are; `dtype` is what it computed in."""

    model_id: str
    num_layers: int
    d_model: int
    dtype: str


class PlaceEntry(_Closed):
    """One tensor of each file of rows: [rows, width]."""

    name: str
    layer: int
    site: Site
    width: int


class ShardEntry(_Closed):
    """A complete file of rows. `run` counts the calls that wrote to the folder, from 0."""

    file: str
    rows: int
    prompts_ended: int
    run: int


class CaptureIndex(_Closed):
    """The whole file. `actions` has the prompts in which a policy did more than allow.

    `places` is empty until an engine has looked at the model.
    """

    format: Literal["pilothouse-capture/1"] = FORMAT
    versions: dict[str, str]
    model: CapturedModel
    revision: str
    config_digest: str
    order: CaptureOrder
    complete: bool = False
    run: int = 0
    places: tuple[PlaceEntry, ...] = ()
    actions: dict[str, tuple[int, ...]] = {}
    shards: tuple[ShardEntry, ...] = ()

    def difference(self, other: CaptureIndex) -> str | None:
        """The first thing by which two captures cannot be one; None where they can."""
        for name in ("model", "versions", "config_digest", "revision"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name}: {mine!r} there, {theirs!r} now"
        for name in CaptureOrder.model_fields:
            mine, theirs = getattr(self.order, name), getattr(other.order, name)
            if mine != theirs:
                return f"{name}: {mine!r} there, {theirs!r} now"
        return None


def place_name(place: Tap) -> str:
    """The name of a place's tensor."""
    return f"{place.site}/{place.layer}"


def shard_name(number: int) -> str:
    """The name of a file of rows."""
    return f"rows-{number:06d}.safetensors"


def save_index(folder: Path, index: CaptureIndex) -> None:
    """Put `index` in place of the folder's, at once or not at all."""
    temporary = folder / f"{INDEX_FILE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(index.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / INDEX_FILE)


def load_index(folder: Path) -> CaptureIndex:
    """The index of a capture's folder.

    Raises:
        ConfigError: there is none, or it is not one of this format.
    """
    path = folder / INDEX_FILE
    try:
        return CaptureIndex.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; want a folder that LLM.capture wrote"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; want the index of a "
            f"capture in the format {FORMAT}"
        ) from error


def open_folder(folder: Path, wanted: CaptureIndex) -> CaptureIndex:
    """What the folder holds of the wanted capture; made where it is missing.

    Returns:
        `wanted` for an empty folder, else the index of the same capture, complete or not.

    Raises:
        ConfigError: the folder cannot be written, or holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        held = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise ConfigError(
            f"out: {folder} cannot be written: {error.strerror or error}: choose another folder"
        ) from error
    if not held:
        return wanted
    if INDEX_FILE not in held:
        raise ConfigError(
            f"out: {folder} holds {held[0]!r} and no {INDEX_FILE}: choose an empty folder, or one "
            "that an interrupted capture left"
        )
    found = load_index(folder)
    difference = found.difference(wanted)
    if difference is not None:
        raise ConfigError(
            f"out: {folder} holds another capture ({difference}): choose another folder, or "
            "remove this one"
        )
    return found
