"""Finds the folder in which downloads, the real model and activations are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pilothouse.errors import ConfigError

CACHE_VARIABLE: Final = "PILOTHOUSE_CACHE"


def cache_folder(name: str) -> Path:
    """Return the folder of that name in the cache, made where it is not there.

    The cache is `$PILOTHOUSE_CACHE`, else `$XDG_CACHE_HOME/pilothouse`, else
    `~/.cache/pilothouse`.

    Raises:
        ConfigError: it cannot be made.
    """
    named = os.environ.get(CACHE_VARIABLE)
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = (Path(named).expanduser() if named else Path(shared) / "pilothouse") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            where=folder,
            got=error.strerror,
            want="a folder for downloads, activations and the demo's model",
            fix=f"set {CACHE_VARIABLE} to one that can be written",
        ) from error
    return folder
