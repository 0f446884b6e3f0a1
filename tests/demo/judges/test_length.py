"""Length is counted in words, on a scale on which 1 is twice as many."""

from __future__ import annotations

from pilothouse.demo.judges.length import LENGTH, log_words


def test_twice_the_words_are_one_more() -> None:
    assert log_words("one two three four") - log_words("one two") == 1.0


def test_an_empty_answer_counts_as_one_word() -> None:
    assert log_words("") == log_words("Yes.") == 0.0


def test_half_the_words_count_as_changed_and_nearly_half_do_not() -> None:
    plain = log_words(" ".join(["word"] * 20))
    assert LENGTH.changed(plain, log_words(" ".join(["word"] * 10)), -1)
    assert not LENGTH.changed(plain, log_words(" ".join(["word"] * 11)), -1)
