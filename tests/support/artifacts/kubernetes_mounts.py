"""Folders as Kubernetes mounts them: `..data` leads to a dated folder, each name into `..data`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path

DATA = "..data"
_numbers = count(1)


def mount(folder: Path, files: Mapping[str, bytes]) -> None:
    """Mount files, or others in their place: the swap is one rename, then the old ones are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    dated = f"..2026_01_01_00_00_00.{next(_numbers)}"
    for name, content in files.items():
        (folder / dated / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / dated / name).write_bytes(content)
    before = os.readlink(folder / DATA) if (folder / DATA).is_symlink() else None
    (folder / "..data_tmp").symlink_to(dated)
    (folder / "..data_tmp").rename(folder / DATA)
    tops = {name.split("/")[0] for name in files}
    for name in tops:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{DATA}/{name}")
    for each in folder.iterdir():
        if each.is_symlink() and not each.name.startswith("..") and each.name not in tops:
            each.unlink()
    if before is not None:
        shutil.rmtree(folder / before)


def mount_folder(folder: Path, source: Path) -> None:
    """Mount the files of a folder, those in its folders too."""
    files = {
        str(each.relative_to(source)): each.read_bytes()
        for each in sorted(source.rglob("*"))
        if each.is_file()
    }
    mount(folder, files)
