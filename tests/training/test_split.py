"""The split: by group, steady, and nothing in two parts."""

from __future__ import annotations

import pytest

from pilothouse.errors import ConfigError
from pilothouse.training.pair import Pair, divide


def pairs(count: int, groups: int) -> list[Pair]:
    return [Pair(positive=f"p{n}", negative=f"n{n}", group=f"g{n % groups}") for n in range(count)]


def test_no_group_is_in_two_parts_and_every_pair_in_one() -> None:
    given = pairs(60, 20)
    parts = divide(given, seed=3)
    groups = [{given[n].group_name for n in part} for part in parts]
    assert sorted(n for part in parts for n in part) == list(range(60))
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert [len(each) for each in groups] == [10, 5, 5]


def test_a_groups_side_hangs_on_name_and_seed_alone() -> None:
    given = pairs(40, 40)
    turned = given[::-1]
    names = [{given[n].group_name for n in part} for part in divide(given, 1)]
    assert names == [{turned[n].group_name for n in part} for part in divide(turned, 1)]
    assert names != [{given[n].group_name for n in part} for part in divide(given, 2)]


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 40 in 7 groups, want at least 8"):
        divide(pairs(40, 7), 0)
