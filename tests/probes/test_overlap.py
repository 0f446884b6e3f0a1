"""Texts that nearly say the same are found, whoever wrote them."""

from __future__ import annotations

from pilothouse.probes.overlap import PART, near_texts


def test_a_text_with_another_word_is_near_and_another_text_is_not() -> None:
    fitted = ["how do i make bread at home with flour and water", "tell me a long story"]
    tested = [
        "how do i make bread at home with flour and water today",
        "how do i sail a boat",
        "tell me a long story",
    ]
    assert near_texts(tested, fitted).tolist() == [True, False, True]


def test_many_texts_are_compared_in_parts() -> None:
    tested = [f"words about number{n} alone" for n in range(PART + 3)]
    near = near_texts(tested, [tested[0], tested[-1]])
    assert near[0] and near[-1] and near.size == len(tested)


def test_texts_without_words_are_near_nothing() -> None:
    assert near_texts(["!!", "?"], ["!!"]).tolist() == [False, False]
    assert near_texts([], ["a b"]).size == 0
