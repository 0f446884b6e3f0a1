"""A configuration with one vector more, another in its place, or one less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilothouse.config import PilothouseConfig, parse_config
from pilothouse.errors import ConfigError

ORIGIN = "pilothouse.yaml with this change"


def with_vector(config: PilothouseConfig, name: str, path: Path) -> PilothouseConfig:
    """Load `path` under a name.

    Raises:
        ConfigError: a name that cannot be one.
    """
    return _with(config, {**_paths(config), name: {"path": path}})


def without_vector(config: PilothouseConfig, name: str) -> PilothouseConfig:
    """Let go of a vector.

    Raises:
        ConfigError: it is not loaded, or a profile steers with it.
    """
    paths = _paths(config)
    if name not in paths:
        raise ConfigError(f"vectors.{name}: is not loaded; loaded are {sorted(paths)}")
    users = sorted(
        profile
        for profile, each in config.profiles.items()
        if any(term.vector == name for term in each.steer)
    )
    if users:
        raise ConfigError(
            f"vectors.{name}: cannot go, profiles {', '.join(users)} steer with it: take them out "
            "of pilothouse.yaml and reload"
        )
    del paths[name]
    return _with(config, paths)


def _paths(config: PilothouseConfig) -> dict[str, Any]:
    return {name: ref.model_dump() for name, ref in config.vectors.items()}


def _with(config: PilothouseConfig, vectors: dict[str, Any]) -> PilothouseConfig:
    return parse_config(config.model_dump() | {"vectors": vectors}, folder=Path(), origin=ORIGIN)
