"""A judge counts an answer as changed by a margin, towards the pole that is meant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.demo.judges import JUDGES
from pilothouse.demo.judges.judge import Judge, per_hundred, sentences_of, words_of

HALF = Judge("half", "a number", float, 0.5)
SCORES = st.floats(-10, 10)


@given(SCORES, SCORES)
def test_no_answer_changes_towards_both_poles(plain: float, steered: float) -> None:
    assert not (HALF.changed(plain, steered, 1) and HALF.changed(plain, steered, -1))


@given(SCORES)
def test_an_answer_that_stays_is_not_changed(plain: float) -> None:
    assert not any(each.changed(plain, plain, 1) for each in JUDGES.values())


def test_a_margin_that_is_just_met_counts() -> None:
    # 0.3 - 0.1 is 0.19999999999999998.
    assert Judge("fifth", "a number", float, 0.2).changed(0.1, 0.3, 1)


def test_every_judge_stands_under_its_name() -> None:
    assert all(name == judge.name for name, judge in JUDGES.items())


def test_words_and_sentences_are_those_of_a_reader() -> None:
    text = "It\u2019s 5 o'clock. Où est-il?\nHere we go: 3.5 m"
    assert words_of(text) == ["it's", "o'clock", "où", "est", "il", "here", "we", "go", "m"]
    assert sentences_of(text) == ["It\u2019s 5 o'clock", "Où est-il", "Here we go: 3.5 m"]
    assert per_hundred(1, "a b c d") == 25.0
