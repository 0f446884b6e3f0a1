"""Whether a file that is mapped has been written to since: its numbers would be others by now.

A mapping of a file that was made shorter ends the process that reads on, so it is asked before.
A file that another one has taken the place of is well: the mapping keeps the old one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".safetensors", ".npz")


class Stamp(NamedTuple):
    """A file as it was when it was mapped."""

    place: Path
    inode: tuple[int, int]
    size: int
    changed_ns: int


def stamps_of(folder: Path) -> tuple[Stamp, ...]:
    """Stamp every file in a folder that may get mapped."""
    files = sorted(each for each in folder.rglob("*") if each.suffix in SUFFIXES)
    return tuple(_stamp(each) for each in files if each.is_file())


def written(stamps: Iterable[Stamp]) -> Iterator[Path]:
    """Yield the files that were written to."""
    for stamp in stamps:
        try:
            now = _stamp(stamp.place)
        except OSError:
            continue
        if now.inode == stamp.inode and now != stamp:
            yield stamp.place


def _stamp(place: Path) -> Stamp:
    status = os.stat(place)
    return Stamp(place, (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)
