"""The places where a text could have ended."""

from __future__ import annotations

from pilothouse.server.rescoring import MAX_PREFIXES, MAX_WORDS, prefixes


def test_a_text_is_cut_behind_each_sentence_but_the_last() -> None:
    assert prefixes("how do i open it? so be it. take the rope. bye") == (
        "how do i open it?",
        "how do i open it? so be it.",
        "how do i open it? so be it. take the rope.",
    )


def test_quotes_and_brackets_close_a_sentence_with_it() -> None:
    assert prefixes('{"a": "open it.", "b": 1}') == ('{"a": "open it.",',)


def test_a_new_line_ends_a_sentence() -> None:
    assert prefixes("open it\nand then") == ("open it",)


def test_words_without_an_end_are_cut_all_the_same() -> None:
    words = ["kelm"] * (3 * MAX_WORDS)
    assert prefixes(" ".join(words)) == (
        " ".join(words[:MAX_WORDS]),
        " ".join(words[: 2 * MAX_WORDS]),
    )


def test_one_sentence_has_no_prefix() -> None:
    assert prefixes("how do i open it?") == prefixes("") == prefixes("  ") == ()


def test_there_are_so_many_at_most_and_from_the_whole_of_the_text() -> None:
    found = prefixes("kelm. " * 1000)
    assert len(found) == MAX_PREFIXES
    assert len(found[-1]) > 0.95 * len("kelm. " * 1000)


def test_a_text_without_spaces_is_cut_too() -> None:
    assert prefixes("\u6253\u5f00\u3002\u597d\u3002") == ("\u6253\u5f00\u3002",)
    assert len(prefixes("x" * 1000)) >= 4
