"""A configuration with one vector or SAE more, another in its place, or one less."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pilothouse.config import PilothouseConfig, parse_config
from pilothouse.errors import ConfigError

ORIGIN = "pilothouse.yaml with this change"

Section = Literal["vectors", "saes"]
"""What can be loaded one by one."""


def with_loaded(
    config: PilothouseConfig, section: Section, name: str, entry: dict[str, Any]
) -> PilothouseConfig:
    """Load an entry of a section under a name.

    Raises:
        ConfigError: a name that cannot be one, or a field that the entry cannot have.
    """
    return _with(config, section, {**_entries(config, section), name: entry})


def without_loaded(config: PilothouseConfig, section: Section, name: str) -> PilothouseConfig:
    """Let go of a vector or SAE.

    Raises:
        ConfigError: it is not loaded, or a profile steers with it.
    """
    entries = _entries(config, section)
    if name not in entries:
        raise ConfigError(f"{section}.{name}: is not loaded; loaded are {sorted(entries)}")
    users = sorted(
        profile
        for profile, each in config.profiles.items()
        if any(term.name == name for term in each.steer)
    )
    if users:
        raise ConfigError(
            f"{section}.{name}: cannot go, profiles {', '.join(users)} steer with it: take them "
            "out of pilothouse.yaml and reload"
        )
    del entries[name]
    return _with(config, section, entries)


def _entries(config: PilothouseConfig, section: Section) -> dict[str, Any]:
    return {name: ref.model_dump() for name, ref in getattr(config, section).items()}


def _with(config: PilothouseConfig, section: Section, entries: dict[str, Any]) -> PilothouseConfig:
    return parse_config(config.model_dump() | {section: entries}, folder=Path(), origin=ORIGIN)
