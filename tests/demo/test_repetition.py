"""Answers that repeat themselves are told from those that do not."""

from __future__ import annotations

from pilothouse.demo.repetition import distinct_share, is_degenerate

STORY = "Once upon a time there was a fox who lived near a river and met a goose by the old mill."


def test_a_story_does_not_repeat_itself() -> None:
    assert distinct_share(STORY) == 1.0
    assert not is_degenerate(STORY)


def test_the_same_over_and_over_does() -> None:
    assert is_degenerate("so happy to help you " * 10)
    assert is_degenerate("very " * 20)


def test_one_word_for_most_of_a_short_answer_does() -> None:
    assert is_degenerate("la la la la")
    assert is_degenerate("Pain:\n\nPain:\n\nPain:\n\nWine")
    assert not is_degenerate("The cat and the dog saw the sea.")


def test_short_answers_are_not_told_to_repeat_themselves() -> None:
    assert not is_degenerate("no no no")


def test_an_answer_without_words_is_degenerate() -> None:
    assert is_degenerate("")
    assert is_degenerate("!!! 123")


def test_a_pictogram_over_and_over_is_degenerate_and_a_rule_or_three_of_them_are_not() -> None:
    tree = "\U0001f333"
    assert is_degenerate(f"What a lovely day! {tree * 4}")
    assert is_degenerate(f"What a lovely day! {f'{tree} ' * 4}")
    assert not is_degenerate(f"What a lovely day! {tree * 3}")
    assert not is_degenerate("Three steps:\n--------\n1. Wait ......")
