"""Classes of words: what they find in texts, and how they count answers."""

from __future__ import annotations

import pytest

from pilothouse.demo.sae.concepts import CONCEPTS, Concept

MUSIC = CONCEPTS["music"]


def test_words_are_found_whole_in_any_case_and_in_the_plural() -> None:
    text = "Two Songs, a piano and a bandage"
    assert [text[start:end] for start, end in MUSIC.spans(text)] == ["Songs", "piano"]


def test_the_plural_of_a_short_word_is_another_word() -> None:
    assert CONCEPTS["first person"].spans("This is his") == []
    assert len(CONCEPTS["first person"].spans("I saw us")) == 2


def test_words_of_several_parts_are_found_across_a_space() -> None:
    assert CONCEPTS["America"].spans("in the United States") == [(7, 20)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("numerals", "it has 4,768 of them"),
        ("months and dates", "in 1914 or so"),
        ("money and business", "for $20"),
        ("negation", "it doesn't"),
        ("question words", "really?"),
        ("units of measure", "about 93% of it"),
        ("examples and lists", "So:\n- one"),
    ],
)
def test_patterns_find_what_no_list_of_words_can(name: str, text: str) -> None:
    assert CONCEPTS[name].spans(text)


def test_an_answer_counts_different_words_and_none_where_it_stammers() -> None:
    assert MUSIC.count("A band and a singer. The band sang a song.") == 4
    assert MUSIC.count("I like long walks on the beach.") == 0
    assert MUSIC.count("music music music " * 8) == 0


def test_every_label_is_of_one_class_that_finds_its_own_words() -> None:
    assert len(CONCEPTS) >= 60
    for name, each in CONCEPTS.items():
        assert name == each.name and (each.words or each.pattern)
        for word in each.words.split():
            said = f"It says {word.replace('_', ' ')} there"
            assert each.spans(said), f"{name}: {word}"


def test_a_class_of_words_alone_needs_no_pattern() -> None:
    assert Concept("tea", "tea cup").spans("cups of tea") == [(0, 4), (8, 11)]
