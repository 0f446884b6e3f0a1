"""The formats that can be imported: name -> reader and what may be said beside the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Reading, Wish
from pilothouse.errors import ConfigError, argument
from pilothouse.types import Site

CONVERT = (
    f"add {argument('allow_pickle_weights', 'True')} to read its tensors by a weights-only load "
    "(nothing in the file is executed), or save it as safetensors first"
)


class Reader(Protocol):
    """Reads one foreign file or folder and executes nothing of it."""

    def __call__(self, place: Path, wish: Wish, /) -> Reading:
        """Return the numbers of a file, or raise an ArtefactError that names file and field."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """One foreign layout.

    `takes` names the options of `Wish` that mean something here; any other is refused. `needs` are
    those without which the file cannot be understood. `sites` are those at which the layout's
    numbers can land. `pickled` layouts are read only where pickled weights were allowed.
    """

    name: str
    about: str
    reader: Reader
    sites: tuple[Site, ...]
    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    pickled: bool = False


FORMATS: dict[str, Format] = {}


def register(entry: Format) -> None:
    """Add a format.

    Raises:
        ValueError: its name is taken.
    """
    if entry.name in FORMATS:
        raise ValueError(f"format {entry.name!r} is registered twice")
    FORMATS[entry.name] = entry


def read_foreign(name: str, place: Path, wish: Wish) -> Reading:
    """Read the numbers of a foreign file or folder.

    Raises:
        ConfigError: there is no such format, or it does not go with the wish.
        ArtefactError: the file is not what the format says.
    """
    if name not in FORMATS:
        raise ConfigError(
            where=argument("format_name"),
            got=repr(name),
            want=f"one of {', '.join(sorted(FORMATS))}",
        )
    entry = FORMATS[name]
    _check_wish(entry, wish)
    if entry.pickled and wish.read_pickle is None:
        refuse(place, "format", f"{name!r}, which is a pickle", "leave to read one", CONVERT)
    return entry.reader(place, wish)


def _check_wish(entry: Format, wish: Wish) -> None:
    its = argument("format_name", entry.name)
    for name in sorted(wish.given - entry.takes - entry.needs):
        known = ", ".join(_argument(each) for each in sorted(entry.takes | entry.needs)) or "none"
        raise ConfigError(
            f"{_argument(name)}: got it with {its}, which does not take it (it takes {known}); "
            "leave it out"
        )
    for name in sorted(entry.needs - wish.given):
        raise ConfigError(f"{_argument(name)}: got nothing, {its} needs it")
    if wish.site is not None and wish.site not in entry.sites:
        raise ConfigError(
            f"{argument('site')}: got {wish.site!r}, numbers of {its} belong at "
            f"{_either(entry.sites)}"
        )
    layers = wish.layer_numbers
    if len(set(layers)) != len(layers):
        raise ConfigError(where=argument("layers"), got=list(layers), want="each layer once")
    if entry.name != "safetensors" and any(each.tensor is not None for each in wish.layers):
        raise ConfigError(
            f"{argument('layers')}: got NUMBER=TENSOR with {its}; only safetensors has names"
        )


def _argument(name: str) -> str:
    return argument("layers" if name == "layer" else name)


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)
