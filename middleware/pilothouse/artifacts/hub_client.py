"""What is asked of a hub, and what of its answers is believed.

The client's own cache is used and shared. Whatever fails, here or on the way, is refused with what
to do about it; what is fetched is named by us, never by the server.

`huggingface_hub.snapshot_download` is not used: it lists a whole repository first (thousands of
files in some of SAEs), takes the names that the server lists, and lets nobody look at an etag
before it becomes a path in the cache. It would replace the loop of `downloaded` and no check.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pilothouse.artifacts.folder import refuse
from pilothouse.config import HubPlace

COMMIT = re.compile(r"[0-9a-f]{40}")
TAG = re.compile(r"[A-Za-z0-9_\-]{1,128}")
MAX_BYTES = 32 << 30
MAX_FILES = 256
SUFFIXES = (".pt", ".bin", ".json", ".npy", ".npz", ".safetensors", ".gguf", ".svec", ".statedict")


def home() -> Path:
    """Return where the client keeps what it has fetched, and we what we have linked."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME)


def is_offline() -> bool:
    """Return whether the hub may not be asked."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def commit_of(place: HubPlace) -> str:
    """Return the commit that a branch, a tag or nothing means now.

    Raises:
        ArtefactError: the hub cannot be asked, or has no such revision.
    """
    info = _asked(place, lambda api: api.repo_info(place.repo, revision=place.revision))
    commit = str(info.sha)
    if not COMMIT.fullmatch(commit):
        refuse(place, "revision", repr(commit), "a commit's 40 hexadecimal digits", "name a commit")
    return commit


def is_folder(place: HubPlace) -> bool:
    """Return whether a folder stands there, and no file.

    Raises:
        ArtefactError: nothing stands there, or the hub cannot be asked.
    """
    infos = _asked(
        place, lambda api: api.get_paths_info(place.repo, [place.inside], revision=place.revision)
    )
    if not infos:
        refuse(
            place,
            "path",
            "nothing",
            f"a file or folder at {place.revision}",
            "correct what stands behind the commit",
        )
    return not hasattr(infos[0], "size")


def names_in(place: HubPlace) -> list[str]:
    """Return the files of a folder that a format may read.

    Raises:
        ArtefactError: none, too many, or the hub cannot be asked.
    """
    entries = _asked(
        place,
        lambda api: list(
            api.list_repo_tree(place.repo, place.inside or None, revision=place.revision)
        ),
    )
    names = [Path(each.path).name for each in entries if hasattr(each, "size")]
    kept = sorted(name for name in names if name.endswith(SUFFIXES))
    if not 0 < len(kept) <= MAX_FILES:
        refuse(
            place,
            "files",
            f"{len(kept)} of the kinds that are read",
            f"1 to {MAX_FILES}",
            "name the file, or a folder that holds only these",
        )
    return kept


def sizes_of(place: HubPlace, paths: Iterable[str]) -> dict[str, int] | None:
    """Return the size of each path that there is.

    It is None where the hub may not or cannot be asked, and the client's cache has to do.

    Raises:
        ArtefactError: there are none, or they are too large; or neither hub nor cache has them.
    """
    from huggingface_hub import HfApi

    wanted = sorted(paths)
    if is_offline():
        return None
    try:
        infos = HfApi().get_paths_info(place.repo, wanted, revision=place.revision)
    # What the client and its transport can raise has no end.
    except Exception as error:
        if cached(place, wanted, must=False):
            return None
        _refuse(place, error)
    told = {each.path: each.size for each in infos if hasattr(each, "size")}
    # What is no number is refused with what is under zero.
    sizes = {path: size if isinstance(size, int) else -1 for path, size in told.items()}
    sizes = {path: size for path, size in sizes.items() if path in wanted}
    if not sizes:
        refuse(
            place,
            "files",
            "none of them",
            f"any of {wanted}",
            "correct the folder behind the commit, or name another commit",
        )
    _check_sizes(place, sizes)
    return sizes


def downloaded(place: HubPlace, paths: Iterable[str]) -> dict[str, Path]:
    """Return the files in the client's cache, fetched where it lacks them.

    Raises:
        ArtefactError: one cannot be fetched, or what is said of it is not to be trusted.
    """
    from huggingface_hub import hf_hub_download

    found: dict[str, Path] = {}
    for path in paths:
        known = cached(place, [path], must=False)
        if path not in known:
            _check_head(place, path)
            try:
                known[path] = Path(hf_hub_download(place.repo, path, revision=place.revision))
            # As above.
            except Exception as error:
                _refuse(place, error)
        found |= known
    return found


def cached(place: HubPlace, paths: Iterable[str], *, must: bool = True) -> dict[str, Path]:
    """Return what the client's cache has of the files.

    Raises:
        ArtefactError: nothing, though something `must` be there.
    """
    from huggingface_hub import try_to_load_from_cache

    places = {
        path: try_to_load_from_cache(place.repo, path, revision=place.revision) for path in paths
    }
    found = {path: Path(each) for path, each in places.items() if isinstance(each, str)}
    if must and not found:
        refuse(
            place,
            "files",
            "none in the cache, and HF_HUB_OFFLINE is set",
            "them in the cache",
            "run once without HF_HUB_OFFLINE, or fetch them with `hf download`",
        )
    return found


def _check_sizes(place: HubPlace, sizes: Mapping[str, int]) -> None:
    home().mkdir(parents=True, exist_ok=True)
    total, free = sum(sizes.values()), shutil.disk_usage(home()).free
    if not all(size >= 0 for size in sizes.values()) or total > min(MAX_BYTES, free):
        refuse(
            place,
            "size",
            f"{total} bytes in {len(sizes)} files",
            f"at most {min(MAX_BYTES, free)}, what is allowed and free in {home()}",
            "free some room, or set HF_HOME to a folder with more",
        )


def _check_head(place: HubPlace, path: str) -> None:
    """Refuse what a server says of a file where the client would write by it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(place.repo, path, revision=place.revision)
    told = _asked(place, lambda _: get_hf_file_metadata(url))
    if told.commit_hash != place.revision:
        refuse(
            place,
            "revision",
            f"another commit for {path}",
            str(place.revision),
            "the server does not speak of the commit that was asked for",
        )
    if not TAG.fullmatch(told.etag or ""):
        refuse(
            place,
            f"etag of {path}",
            repr(told.etag),
            "letters and digits: it names a file",
            "use another HF_ENDPOINT: this one is not to be trusted",
        )


def _asked(place: HubPlace, ask: Callable[[Any], Any]) -> Any:
    from huggingface_hub import HfApi

    try:
        return ask(HfApi())
    # As above.
    except Exception as error:
        _refuse(place, error)


def _refuse(place: HubPlace, error: Exception) -> NoReturn:
    from huggingface_hub import constants, errors

    at = constants.ENDPOINT
    told = (str(error).strip().splitlines() or [""])[0][:200]
    got = f"{type(error).__name__}: {told}"
    if isinstance(error, errors.RevisionNotFoundError):
        refuse(
            place,
            "revision",
            f"none of that name at {at}",
            "one that the repository has",
            "correct the commit behind the @",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        refuse(
            place,
            "repository",
            f"none at {at} that may be read ({type(error).__name__})",
            "one that there is",
            "correct its name; for one that is private or gated set HF_TOKEN",
        )
    if isinstance(error, errors.EntryNotFoundError):
        refuse(place, "file", got, "a file of the repository", "correct the path")
    if isinstance(error, errors.OfflineModeIsEnabled):
        refuse(
            place,
            "network",
            "HF_HUB_OFFLINE is set",
            "an answer of the hub",
            "run once without it; a commit that is in the cache needs no network",
        )
    refuse(
        place,
        "network",
        got,
        f"an answer of {at}",
        "check the connection and HF_ENDPOINT; what is in the cache needs no network, with "
        "HF_HUB_OFFLINE=1 none is tried",
    )
