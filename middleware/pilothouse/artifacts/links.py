"""Which symbolic links a reader of artefacts follows.

A link may come out of a download that nobody has looked at (a clone, an archive) and lead to any
file that the operator can read. So one is followed only to where the same hands put files: inside
its own folder, as Kubernetes lays mounted volumes, or from a snapshot to the blobs of the same
repository, as the Hugging Face client lays its cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

REPOSITORY = re.compile(r"(?:models|datasets|spaces)--.+")
INSTEAD = (
    "name the folder where the files themselves lie, or copy them with `cp -L`; of a repository on "
    "the hub name hf://OWNER/NAME@COMMIT/FOLDER, or fetch it with `hf download OWNER/NAME "
    "--local-dir DIR`"
)
"""What to do about a link that is not followed."""


def followed(link: Path) -> Path | None:
    """Return the file that a link leads to; None where it leads out of its folder."""
    real, folder = (Path(os.path.realpath(each)) for each in (link, link.parent))
    if real.is_relative_to(folder) or real.parent == _blobs(folder):
        return real
    return None


def what_lies_at(place: Path) -> str:
    """Say in words what lies where a folder was expected."""
    if place.exists():
        return "a folder" if place.is_dir() else "a file"
    return "a symbolic link that leads nowhere" if place.is_symlink() else "nothing"


def _blobs(folder: Path) -> Path | None:
    """Return where the files of a snapshot lie in the client's cache, if the folder is in one."""
    for each in (folder, *folder.parents):
        repository = each.parent.parent
        if each.parent.name == "snapshots" and REPOSITORY.fullmatch(repository.name):
            return repository / "blobs"
    return None
