"""The folder in which the real model, and the files it is made of, are kept between runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from filelock import FileLock, Timeout

from pilothouse.cache_folder import CACHE_VARIABLE as CACHE_VARIABLE
from pilothouse.cache_folder import cache_folder as cache_folder
from pilothouse.errors import ConfigError

MIB: Final = 2**20

Tell = Callable[[str], None]
"""Called with a line for the user."""


@contextmanager
def locked(path: Path, tell: Tell) -> Iterator[None]:
    """Hold a path of the cache for this process, after whoever holds it now.

    Raises:
        ConfigError: the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            tell(f"Waiting for another process that makes {path.name}.")
            lock.acquire()
    except OSError as error:
        raise ConfigError(
            where=path.parent,
            got=error.strerror,
            want="a folder that can be written",
            fix=f"set {CACHE_VARIABLE} to one",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def scratch(path: Path, wanted_bytes: int) -> Iterator[Path]:
    """Yield an empty folder beside a path of the cache, which is gone at the end.

    What a killed run left there goes first. Hold the path's lock, so that it is nobody's.

    Raises:
        ConfigError: the disk has no room for what is wanted.
    """
    prefix = f".{path.name}-"
    for left in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < wanted_bytes:
        raise ConfigError(
            where=path.parent,
            got=f"{free_bytes // MIB} MiB of disk free",
            want=f"{wanted_bytes // MIB} MiB to make {path.name}",
            fix=f"make room, or set {CACHE_VARIABLE} to a folder elsewhere",
        )
    with TemporaryDirectory(dir=path.parent, prefix=prefix) as room:
        yield Path(room)
