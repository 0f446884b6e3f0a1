"""Finds the policies, probes and demo that come with Pilothouse.

The library has the repository's layout wherever it is, so relative paths between its files hold.
Found in this order: the caller's own path, `PILOTHOUSE_LIBRARY`, the copy inside an installed
wheel, the checkout around `middleware/`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, get_args

from pilothouse.errors import ConfigError

LIBRARY_ENV: Final = "PILOTHOUSE_LIBRARY"

Shelf = Literal["policies", "probes/demo", "probes/smol", "examples/demo", "examples/smol"]


def library_path(shelf: Shelf, explicit: Path | None = None) -> Path:
    """Return the folder of one shelf of the library.

    `explicit` is a path the user named; it is taken as it is, and must exist.

    Raises:
        ConfigError: it is nowhere; names every place that was tried.
    """
    if shelf not in get_args(Shelf):
        raise ConfigError(
            f"the library has no shelf {shelf!r}; wanted one of {', '.join(get_args(Shelf))}"
        )
    if explicit is not None:
        return _folder(explicit, f"{explicit} was named as the folder of {shelf}")
    named = os.environ.get(LIBRARY_ENV)
    if named:
        return _folder(Path(named) / shelf, f"{LIBRARY_ENV} is {named}")
    tried = [root / shelf for root in _roots()]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"{shelf} was found neither at {' nor at '.join(map(str, tried))}: "
        f"reinstall pilothouse, or set {LIBRARY_ENV} to a folder that holds {shelf}"
    )


def _folder(path: Path, reason: str) -> Path:
    if path.is_dir():
        return path.resolve()
    raise ConfigError(f"{reason}, but {path} is not a folder: name one that exists")


def _roots() -> tuple[Path, ...]:
    """Return the packaged library, then the checkout: only one of the two exists."""
    package = Path(__file__).resolve().parent
    source_root = package.parent
    checkout = source_root.parent if source_root.name == "middleware" else None
    return (package / "_library", *([checkout] if checkout else []))
