"""The folder of a capture before it starts: new, left by an interrupted one, or not ours."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pilothouse.capture.index import INDEX_FILE, CaptureIndex, load_index
from pilothouse.errors import ConfigError


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
