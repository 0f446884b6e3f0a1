"""Register is a readability grade less what only speech has."""

from __future__ import annotations

import pytest

from pilothouse.demo.judges.formality import coleman_liau, colloquial_marks, formality

FORMAL = "The committee subsequently determined that considerable expenditure was required."
CASUAL = "Yeah, they're gonna blow tons of cash on it, it's super cool!"


def test_the_grade_is_that_of_the_published_formula() -> None:
    # 3 words, 12 letters, 1 sentence: 5.88 * 4 - 29.6 / 3 - 15.8.
    assert coleman_liau("Four word test.") == pytest.approx(5.88 * 4 - 29.6 / 3 - 15.8)


def test_what_only_speech_has_is_counted() -> None:
    assert colloquial_marks("It's gonna be cool!") == 4
    assert colloquial_marks("They didn\u2019t know.") == 1
    assert colloquial_marks("The dog's bowl is empty.") == 0


def test_formal_texts_are_above_casual_ones() -> None:
    assert formality(FORMAL) > formality("The group then saw that it would cost a lot.")
    assert formality(CASUAL) < formality("They will spend a lot of money on it.")


def test_a_text_without_words_is_neither() -> None:
    assert formality("") == formality("...") == 0.0
