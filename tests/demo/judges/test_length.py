"""Length is counted in words, on a scale on which 1 is half as many."""

from __future__ import annotations

from pilothouse.demo.judges.length import LENGTH, halvings


def test_half_the_words_are_one_more() -> None:
    assert halvings("one two") - halvings("one two three four") == 1.0


def test_an_empty_answer_counts_as_one_word() -> None:
    assert halvings("") == halvings("Yes.") == 0.0


def test_half_the_words_count_as_changed_and_nearly_half_do_not() -> None:
    plain = halvings(" ".join(["word"] * 20))
    assert LENGTH.changed(plain, halvings(" ".join(["word"] * 10)), 1)
    assert not LENGTH.changed(plain, halvings(" ".join(["word"] * 11)), 1)
    assert LENGTH.changed(plain, halvings(" ".join(["word"] * 40)), -1)
