"""Files of a hub repository as a plain local folder: fetched once, then read without a network.

The client's own cache is used and shared; its snapshots are links, which no reader of ours
follows, so the files are linked hard (or copied) into a folder beside it. What is fetched is named
by us, never by the server. The commit says which version is meant, the digest in pilothouse.yaml
which content.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pilothouse.config import HubPlace
from pilothouse.errors import ArtefactError
from pilothouse.model.artefact import refuse

COMMIT = re.compile(r"[0-9a-f]{40}")
TAG = re.compile(r"[A-Za-z0-9_\-]{1,128}")
FETCHED = ".fetched"
"""Beside the files: the names that were asked for, found or not."""
MAX_BYTES = 32 << 30
MAX_FILES = 256
SUFFIXES = (".pt", ".bin", ".json", ".npy", ".npz", ".safetensors", ".gguf", ".svec", ".statedict")


def folder_of(place: Path | HubPlace, names: Collection[str]) -> Path:
    """The local folder of a place: itself, or where its files of these names are fetched to.

    Args:
        names: relative to the place; those that the repository lacks are left out.

    Raises:
        ArtefactError: no commit is named, or nothing can be fetched.
    """
    if isinstance(place, Path):
        return place
    pinned(place)
    folder = _folder(place)
    if _asked_for(folder).issuperset(names):
        return folder
    paths = {_path(place, each): each for each in names}
    sizes = _sizes(place, paths)
    found = _cached(place, paths) if sizes is None else _downloaded(place, sizes)
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
        refuse(where, "digest", "nothing", f"what {place} is to hold",
               f"look at what was fetched, then write digest: {got}")  # fmt: skip
    if wanted not in (None, got):
        refuse(where, "digest", got, f"{wanted} as pilothouse.yaml says",
               "this is not the content that was chosen: find out what changed it")  # fmt: skip


def fetched(place: HubPlace) -> Path:
    """The local file or folder of a place, all files of a folder that a format may read.

    Raises:
        ArtefactError: nothing can be fetched.
    """
    pinned(place)
    if not place.inside or _kind(place) == "directory":
        return folder_of(place, _listed(place))
    parent, _, name = place.inside.rpartition("/")
    return folder_of(place.model_copy(update={"inside": parent}), [name]) / name


def with_commit(place: HubPlace) -> HubPlace:
    """The same place with the commit that its revision is now.

    Raises:
        ArtefactError: the hub cannot be asked, or has no such revision.
    """
    if place.revision is not None and COMMIT.fullmatch(place.revision):
        return place
    from huggingface_hub import HfApi

    try:
        commit = str(HfApi().repo_info(place.repo, revision=place.revision).sha)
    # What the client and its transport can raise has no end.
    except Exception as error:
        _refuse(place, error)
    if not COMMIT.fullmatch(commit):
        refuse(place, "revision", repr(commit), "a commit's 40 hexadecimal digits", "name a commit")
    return place.model_copy(update={"revision": commit})


def pinned(place: HubPlace) -> None:
    """Refuse a revision that can become another version.

    Raises:
        ArtefactError: a branch, a tag or nothing; says the commit that it is now, if it can.
    """
    if place.revision is not None and COMMIT.fullmatch(place.revision):
        return
    try:
        line = f"write path: {with_commit(place)}"
    except ArtefactError:
        line = f"write path: hf://{place.repo}@COMMIT/{place.inside}".rstrip("/")
    refuse(place, "revision", repr(place.revision or "none"),
           "a commit's 40 hexadecimal digits, since branches and tags move", line)  # fmt: skip


def _path(place: HubPlace, name: str) -> str:
    return f"{place.inside}/{name}" if place.inside else name


def _folder(place: HubPlace) -> Path:
    """Ends as the repository does: some formats are told by their folders' names."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME) / "pilothouse" / str(place.revision)
    return home.joinpath(*place.repo.split("/"), *place.inside.split("/"))


def _asked_for(folder: Path) -> set[str]:
    """Names that were asked for before, found or not."""
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


def _sizes(place: HubPlace, paths: Iterable[str]) -> dict[str, int] | None:
    """Size by path of those that there are; None where the hub may not or cannot be asked, and
    the client's cache has to do."""
    from huggingface_hub import HfApi

    wanted = sorted(paths)
    if _is_offline():
        return None
    try:
        infos = HfApi().get_paths_info(place.repo, wanted, revision=place.revision)
    # What the client and its transport can raise has no end.
    except Exception as error:
        if _cached(place, wanted, must=False):
            return None
        _refuse(place, error)
    told = {each.path: each.size for each in infos if hasattr(each, "size")}
    # What is no number is refused with what is under zero.
    sizes = {path: size if isinstance(size, int) else -1 for path, size in told.items()}
    sizes = {path: size for path, size in sizes.items() if path in wanted}
    if not sizes:
        refuse(place, "files", "none of them", f"any of {wanted}",
               "correct the folder behind the commit, or name another commit")  # fmt: skip
    _check_sizes(place, sizes)
    return sizes


def _check_sizes(place: HubPlace, sizes: Mapping[str, int]) -> None:
    from huggingface_hub import constants

    home = Path(constants.HF_HOME)
    home.mkdir(parents=True, exist_ok=True)
    total, free = sum(sizes.values()), shutil.disk_usage(home).free
    if not all(size >= 0 for size in sizes.values()) or total > min(MAX_BYTES, free):
        refuse(place, "size", f"{total} bytes in {len(sizes)} files",
               f"at most {min(MAX_BYTES, free)}, what is allowed and free in {home}",
               "free some room, or set HF_HOME to a folder with more")  # fmt: skip


def _downloaded(place: HubPlace, sizes: Iterable[str]) -> dict[str, Path]:
    from huggingface_hub import hf_hub_download

    found: dict[str, Path] = {}
    for path in sizes:
        known = _cached(place, [path], must=False)
        if path not in known:
            _check_head(place, path)
            try:
                known[path] = Path(hf_hub_download(place.repo, path, revision=place.revision))
            # As above.
            except Exception as error:
                _refuse(place, error)
        found |= known
    return found


def _check_head(place: HubPlace, path: str) -> None:
    """Refuse what a server says of a file where the client would write by it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        told = get_hf_file_metadata(hf_hub_url(place.repo, path, revision=place.revision))
    # As above.
    except Exception as error:
        _refuse(place, error)
    if told.commit_hash != place.revision:
        refuse(place, "revision", f"another commit for {path}", str(place.revision),
               "the server does not speak of the commit that was asked for")  # fmt: skip
    if not TAG.fullmatch(told.etag or ""):
        refuse(place, f"etag of {path}", repr(told.etag), "letters and digits: it names a file",
               "use another HF_ENDPOINT: this one is not to be trusted")  # fmt: skip


def _cached(place: HubPlace, paths: Iterable[str], *, must: bool = True) -> dict[str, Path]:
    """What the client's cache has of the files."""
    from huggingface_hub import try_to_load_from_cache

    places = {
        path: try_to_load_from_cache(place.repo, path, revision=place.revision) for path in paths
    }
    found = {path: Path(each) for path, each in places.items() if isinstance(each, str)}
    if must and not found:
        refuse(place, "files", "none in the cache, and HF_HUB_OFFLINE is set", "them in the cache",
               "run once without HF_HUB_OFFLINE, or fetch them with `hf download`")  # fmt: skip
    return found


def _link(source: Path, target: Path) -> None:
    """Another name for the bytes of a cached file; never a symbolic link."""
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
        refuse(target, "file", error.strerror or "an error", "a folder that can be written",
               "set HF_HOME to one")  # fmt: skip


def _kind(place: HubPlace) -> str:
    """`file` or `directory`; without a network, as it was fetched before."""
    if _is_offline():
        folder = _folder(place)
        return "directory" if folder.is_dir() else "file"
    infos = _asked(place, lambda api: api.get_paths_info(
        place.repo, [place.inside], revision=place.revision))  # fmt: skip
    if not infos:
        refuse(place, "path", "nothing", f"a file or folder at {place.revision}",
               "correct what stands behind the commit")  # fmt: skip
    return "file" if hasattr(infos[0], "size") else "directory"


def _listed(place: HubPlace) -> list[str]:
    if _is_offline():
        return sorted(_asked_for(_folder(place)))
    entries = _asked(place, lambda api: api.list_repo_tree(
        place.repo, place.inside or None, revision=place.revision))  # fmt: skip
    names = [Path(each.path).name for each in entries if hasattr(each, "size")]
    kept = sorted(name for name in names if name.endswith(SUFFIXES))
    if not 0 < len(kept) <= MAX_FILES:
        refuse(place, "files", f"{len(kept)} of the kinds that are read",
               f"1 to {MAX_FILES}", "name the file, or a folder that holds only these")  # fmt: skip
    return kept


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _asked(place: HubPlace, ask: Any) -> list[Any]:
    from huggingface_hub import HfApi

    try:
        return list(ask(HfApi()))
    # As above.
    except Exception as error:
        _refuse(place, error)


def _refuse(place: HubPlace, error: Exception) -> NoReturn:
    from huggingface_hub import constants, errors

    at = constants.ENDPOINT
    told = (str(error).strip().splitlines() or [""])[0][:200]
    got = f"{type(error).__name__}: {told}"
    if isinstance(error, errors.RevisionNotFoundError):
        refuse(place, "revision", f"none of that name at {at}", "one that the repository has",
               "correct the commit behind the @")  # fmt: skip
    if isinstance(error, errors.RepositoryNotFoundError):
        refuse(place, "repository", f"none at {at} that may be read ({type(error).__name__})",
               "one that there is", "correct its name; for one that is private or gated set "
               "HF_TOKEN")  # fmt: skip
    if isinstance(error, errors.EntryNotFoundError):
        refuse(place, "file", got, "a file of the repository", "correct the path")
    if isinstance(error, errors.OfflineModeIsEnabled):
        refuse(place, "network", "HF_HUB_OFFLINE is set", "an answer of the hub",
               "run once without it; a commit that is in the cache needs no network")  # fmt: skip
    refuse(place, "network", got, f"an answer of {at}",
           "check the connection and HF_ENDPOINT; what is in the cache needs no network, with "
           "HF_HUB_OFFLINE=1 none is tried")  # fmt: skip
