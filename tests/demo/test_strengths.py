"""The strength is the weakest that does enough and stays fluent."""

from __future__ import annotations

from pilothouse.demo.strengths import ENOUGH, chosen
from pilothouse.demo.vector_card import Tried


def at(strength: float, changed: float, ratio: float | None = 1.2) -> Tried:
    return Tried(strength=strength, changed=changed, degenerate=0.0, perplexity_ratio=ratio)


def test_the_weakest_that_changes_enough_is_taken() -> None:
    assert chosen([at(0.1, 0.2), at(0.2, ENOUGH), at(0.3, 0.99)], 4.0) == (0.2, "")


def test_where_none_changes_enough_the_one_that_changes_most_is_taken() -> None:
    assert chosen([at(0.1, 0.2), at(0.2, 0.5), at(0.3, 0.5)], 4.0) == (0.2, "")


def test_what_repeats_itself_or_is_not_fluent_does_not_come_into_question() -> None:
    repeating, babbling = at(0.2, 0.9, None), at(0.3, 1.0, 4.1)
    assert chosen([at(0.1, 0.3), repeating, babbling], 4.0) == (0.1, "")


def test_where_nothing_is_fluent_the_weakest_is_taken_and_said() -> None:
    strength, note = chosen([at(0.1, 0.3, None), at(0.2, 0.9, None)], 4.0)
    assert strength == 0.1
    assert "fluent" in note
