"""What an import is given: a local path, or a place on the hub that is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pilothouse.artifacts.hub import fetched, folder_of, with_commit
from pilothouse.artifacts.hub_client import SUFFIXES
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.detect import files_of
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.config import HubPlace, parse_place
from pilothouse.errors import ConfigError


class Located(NamedTuple):
    """A local place; `label` and `revision` where it came from the hub."""

    place: Path
    label: str | None = None
    revision: str | None = None


def locate(source: str) -> Located:
    """Find the file or folder that is meant, fetched where it is on the hub.

    Raises:
        ConfigError: hf:// and something that is no place on the hub.
        ArtefactError: it cannot be fetched.
    """
    place = _parsed(source)
    if isinstance(place, Path):
        return Located(place)
    exact = with_commit(place)
    return Located(fetched(exact), str(exact), exact.revision)


def locate_sae(
    source: str, format_name: str | None, layer: int | None, *, pickles: bool
) -> Located:
    """Find the folder of an SAE; only files that an SAE is read from are fetched.

    Raises:
        ConfigError: hf:// and something that is no place on the hub.
        ArtefactError: it cannot be fetched.
    """
    place = _parsed(source)
    if isinstance(place, Path):
        return Located(place.parent if place.is_file() else place)
    exact = with_commit(place)
    if exact.inside.endswith(SUFFIXES):
        exact = exact.model_copy(update={"inside": exact.inside.rpartition("/")[0]})
    folder = folder_of(exact, files_of(format_name, layer, pickles=pickles))
    return Located(folder, str(exact), exact.revision)


def read_sae(source: str, format_name: str | None, told: SaeHints) -> Sae:
    """Read the SAE of a folder or a place on the hub, named by the folder.

    Raises:
        ConfigError, ArtefactError: as `locate_sae` and `load_sae`.
    """
    folder = locate_sae(source, format_name, told.layer, pickles=False).place
    return load_sae(folder.resolve().name[:64], folder, format_name, told)


def _parsed(source: str) -> Path | HubPlace:
    try:
        return parse_place(source)
    except ValueError as error:
        raise ConfigError(f"SOURCE: {error}") from error
