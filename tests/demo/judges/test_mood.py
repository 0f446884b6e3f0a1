"""The mood of a text is what VADER rates glad in it less what it rates sad."""

from __future__ import annotations

import pytest

pytest.importorskip("vaderSentiment", reason="the judges' packages are in the extra `card`")

from pilothouse.demo.judges.mood import MOOD, mood

GLAD = "What a wonderful, happy day! I love the lovely sunshine."
SAD = "What a terrible, sad day. I hate the awful cold."


def test_a_glad_text_is_above_a_plain_one_and_a_sad_one_below() -> None:
    assert mood(GLAD) > 0.4 > mood("The train leaves at noon.") > -0.4 > mood(SAD)


def test_one_glad_word_in_a_long_text_is_less_than_one_in_a_short_one() -> None:
    assert mood("A wonderful day.") > mood("A wonderful day on which the train leaves at noon.") > 0


def test_a_text_without_words_is_neither() -> None:
    assert mood("") == mood(" \n") == 0.0


def test_the_other_pole_is_a_move_the_other_way() -> None:
    assert MOOD.changed(0.0, -0.3, -1)
    assert not MOOD.changed(0.0, -0.3, 1)
