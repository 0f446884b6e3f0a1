"""Dicts out of PyTorch files: which keys there must be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Wish
from pilothouse.artifacts.vectors.registry import CONVERT
from pilothouse.artifacts.vectors.source import FETCH_AGAIN


def read_pickled(place: Path, wish: Wish) -> object:
    """Read what a PyTorch file holds, by the reader that the wish brings.

    Raises:
        ArtefactError: the wish brings none, or the file is refused.
    """
    if wish.read_pickle is None:
        refuse(place, "file", "a pickle", "leave to read one", CONVERT)
    return wish.read_pickle(place)


def read_state(place: Path, wish: Wish, keys: Collection[str]) -> dict[Any, Any]:
    """Read the dict in a PyTorch file, with at least these keys.

    Raises:
        ArtefactError: no dict, or a key is missing.
    """
    state = read_pickled(place, wish)
    if not isinstance(state, dict):
        refuse(place, "content", type(state).__name__, f"a dict with {sorted(keys)}", FETCH_AGAIN)
    need(place, state, keys)
    return state


def need(place: Path, state: Mapping[Any, Any], keys: Collection[str]) -> None:
    """Refuse a dict that lacks a key.

    Raises:
        ArtefactError: names the key.
    """
    missing = sorted(set(keys) - set(state))
    if missing:
        refuse(
            place,
            missing[0],
            f"nothing; the file has {sorted(map(str, state))}",
            "a value",
            FETCH_AGAIN,
        )


def folder_files(folder: Path) -> list[Path]:
    """Return a folder's files by name; links that lead nowhere are refused when they are read."""
    return sorted(each for each in folder.iterdir() if not each.is_dir())
