"""Pairs divided by group into those that fit, those that choose and those that test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from pilothouse.errors import ConfigError
from pilothouse.training.pair import Pair

MIN_GROUPS = 8
FIT_SHARE, CHOOSE_SHARE = 0.5, 0.25


class Division(NamedTuple):
    """Numbers of pairs. No group is in two parts; what tests was neither fitted nor chosen on."""

    fit: tuple[int, ...]
    choose: tuple[int, ...]
    test: tuple[int, ...]


def divide(pairs: Sequence[Pair], seed: int) -> Division:
    """Groups in an order that hangs on their names and the seed, cut into half, quarter, quarter.

    Raises:
        ConfigError: fewer than eight groups.
    """
    names = sorted({each.group_name for each in pairs}, key=lambda name: _place(name, seed))
    if len(names) < MIN_GROUPS:
        raise ConfigError(
            f"pairs: got {len(pairs)} in {len(names)} groups, want at least {MIN_GROUPS} groups: "
            "half of them fit, the rest choose and test. Pairs of one prompt are one group: write "
            "pairs with other prompts or, where they can be told apart, name each one's `group`"
        )
    first, second = round(FIT_SHARE * len(names)), round((FIT_SHARE + CHOOSE_SHARE) * len(names))
    parts = (names[:first], names[first:second], names[second:])
    return Division(*(_numbers(pairs, frozenset(part)) for part in parts))


def _numbers(pairs: Sequence[Pair], names: frozenset[str]) -> tuple[int, ...]:
    return tuple(number for number, each in enumerate(pairs) if each.group_name in names)


def _place(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
