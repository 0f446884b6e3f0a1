"""Rows dealt out by group: no group is on two sides, and each side has both labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.errors import ConfigError
from pilothouse.training.probe_split import FOLDS, THE_REST, deal_groups, families_of

SHARES = (0.6, 0.2, 0.2)
ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), min_size=1, max_size=200)


@given(ROWS, st.integers(0, 5))
def test_no_group_is_on_two_sides(rows: list[tuple[bool, int]], seed: int) -> None:
    labels, groups = [label for label, _ in rows], [f"g{group}" for _, group in rows]
    try:
        sides = deal_groups(labels, groups, SHARES, seed)
    except ConfigError as error:
        assert "rows of one group stay together" in str(error)
        return
    for group in set(groups):
        assert len({int(s) for s, g in zip(sides, groups, strict=True) if g == group}) == 1
    for side in range(3):
        inside = [label for label, s in zip(labels, sides, strict=True) if s == side]
        assert True in inside and False in inside


def test_sides_have_their_shares_of_each_label() -> None:
    labels = [n % 4 == 0 for n in range(1000)]
    sides = deal_groups(labels, [f"{n}" for n in range(1000)], SHARES, 3)
    for label, count in ((True, 250), (False, 750)):
        of_label = sides[np.array(labels) == label]
        found = [int((of_label == side).sum()) for side in range(3)]
        assert found == [count * 6 // 10, count * 2 // 10, count * 2 // 10]


def test_the_seed_and_the_names_decide_and_the_order_of_rows_does_not() -> None:
    labels, groups = [n % 2 == 0 for n in range(60)], [f"g{n}" for n in range(60)]
    one = deal_groups(labels, groups, SHARES, 0)
    assert list(one) == list(deal_groups(labels, groups, SHARES, 0))
    assert list(one) != list(deal_groups(labels, groups, SHARES, 1))
    back = deal_groups(labels[::-1], groups[::-1], SHARES, 0)
    assert list(back[::-1]) == list(one)


def test_too_few_groups_are_refused_with_their_number() -> None:
    with pytest.raises(ConfigError, match="4 groups, 2 of them with a positive and 2 with"):
        deal_groups([True, True, False, False], ["a", "b", "c", "d"], SHARES, 0)


def test_families_are_sources_where_two_have_both_labels() -> None:
    labels = [n % 2 == 0 for n in range(60)]
    groups = [f"{n}" for n in range(60)]
    sources = ["a"] * 24 + ["b"] * 20 + ["c"] * 16
    families, by_source = families_of(labels, groups, sources, 0)
    assert by_source and families == sources


def test_sources_of_one_label_are_one_together() -> None:
    labels = [n % 2 == 0 for n in range(48)] + [True] * 8 + [False] * 8
    sources = ["a"] * 24 + ["b"] * 24 + ["pos"] * 8 + ["neg"] * 8
    families, _ = families_of(labels, [f"{n}" for n in range(64)], sources, 0)
    assert families[48:] == [THE_REST] * 16
    few, _ = families_of(labels[:52], [f"{n}" for n in range(52)], sources[:52], 0)
    assert few[48:] == ["a"] * 4


def test_families_are_folds_where_there_is_one_source() -> None:
    labels = [n % 2 == 0 for n in range(40)]
    families, by_source = families_of(labels, [f"{n}" for n in range(40)], ["a"] * 40, 0)
    assert not by_source
    assert {families.count(each) for each in set(families)} == {40 // FOLDS}
