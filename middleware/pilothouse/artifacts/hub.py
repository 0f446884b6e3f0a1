"""Files of a hub repository as a plain local folder: fetched once, then read without a network.

The snapshots of the client's cache lie under commits, so the files are linked hard (or copied)
into a folder beside it that ends as the repository does. The commit says which version is meant,
the digest in pilothouse.yaml which content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from pilothouse.artifacts import hub_client
from pilothouse.artifacts.folder import refuse
from pilothouse.config import HubPlace
from pilothouse.errors import ArtefactError

FETCHED = ".fetched"
"""The file beside them that has the names that were asked for, found or not."""


def folder_of(place: Path | HubPlace, names: Collection[str]) -> Path:
    """Return the local folder of a place: itself, or where its files of these names are fetched to.

    Args:
        place: a local path, or a place on the hub.
        names: the files' names in the place; those that the repository lacks are left out.

    Raises:
        ArtefactError: no commit is named, or nothing can be fetched.
    """
    if isinstance(place, Path):
        return place
    pinned(place)
    folder = _folder(place)
    if _asked_for(folder).issuperset(names):
        return folder
    paths = {f"{place.inside}/{each}" if place.inside else each: each for each in names}
    sizes = hub_client.sizes_of(place, paths)
    fetch = hub_client.cached if sizes is None else hub_client.downloaded
    found = fetch(place, paths if sizes is None else sizes)
    for path, source in found.items():
        _link(source, folder / paths[path])
    if sizes is not None:
        _note(folder, names)
    return folder


def check_digest(where: str, place: Path | HubPlace, wanted: str | None, got: str) -> None:
    """Compare an artefact's digest with the configuration's, which hub places must have.

    Raises:
        ArtefactError: it is another one, or a hub place has none; says the line to write.
    """
    if wanted is None and isinstance(place, HubPlace):
        refuse(
            where,
            "digest",
            "nothing",
            f"what {place} is to hold",
            f"look at what was fetched, then write digest: {got}",
        )
    if wanted not in (None, got):
        refuse(
            where,
            "digest",
            got,
            f"{wanted} as pilothouse.yaml says",
            "this is not the content that was chosen: find out what changed it",
        )


def fetched(place: HubPlace) -> Path:
    """Return the local file or folder of a place, all files of a folder that a format may read.

    Raises:
        ArtefactError: nothing can be fetched.
    """
    pinned(place)
    offline, folder = hub_client.is_offline(), _folder(place)
    if not place.inside or (folder.is_dir() if offline else hub_client.is_folder(place)):
        names = sorted(_asked_for(folder)) if offline else hub_client.names_in(place)
        return folder_of(place, names)
    parent, _, name = place.inside.rpartition("/")
    return folder_of(place.model_copy(update={"inside": parent}), [name]) / name


def with_commit(place: HubPlace) -> HubPlace:
    """Return the same place with the commit that its revision is now.

    Raises:
        ArtefactError: the hub cannot be asked, or has no such revision.
    """
    if _is_pinned(place):
        return place
    return place.model_copy(update={"revision": hub_client.commit_of(place)})


def pinned(place: HubPlace) -> None:
    """Refuse a revision that can become another version.

    Raises:
        ArtefactError: a branch, a tag or nothing; says the commit that it is now, if it can.
    """
    if _is_pinned(place):
        return
    try:
        line = f"write path: {with_commit(place)}"
    except ArtefactError:
        line = f"write path: hf://{place.repo}@COMMIT/{place.inside}".rstrip("/")
    refuse(
        place,
        "revision",
        repr(place.revision or "none"),
        "a commit's 40 hexadecimal digits, since branches and tags move",
        line,
    )


def _is_pinned(place: HubPlace) -> bool:
    return bool(place.revision and hub_client.COMMIT.fullmatch(place.revision))


def _folder(place: HubPlace) -> Path:
    """Return a folder that ends as the repository does: some formats are told by their folders."""
    home = hub_client.home() / "pilothouse" / str(place.revision)
    return home.joinpath(*place.repo.split("/"), *place.inside.split("/"))


def _asked_for(folder: Path) -> set[str]:
    """Return the names that were asked for before, found or not."""
    try:
        known = json.loads((folder / FETCHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {str(each) for each in known} if isinstance(known, list) else set()


def _note(folder: Path, names: Iterable[str]) -> None:
    text = json.dumps(sorted(_asked_for(folder).union(names)))
    made = folder / f"{FETCHED}.{os.getpid()}"
    made.write_text(text, encoding="utf-8")
    made.replace(folder / FETCHED)


def _link(source: Path, target: Path) -> None:
    """Give the bytes of a cached file another name; never by a symbolic link."""
    real, made = source.resolve(), target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if not target.is_symlink() and target.is_file() and target.samefile(real):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        made.unlink(missing_ok=True)
        try:
            os.link(real, made)
        except OSError:
            shutil.copyfile(real, made)
        made.replace(target)
    except OSError as error:
        refuse(
            target,
            "file",
            error.strerror or "an error",
            "a folder that can be written",
            "set HF_HOME to one",
        )
