"""Steered answers are counted beside the plain answers of the same questions."""

from __future__ import annotations

from pilothouse.demo.answers import Answer
from pilothouse.demo.evaluation import Heard, against, changed, judged, pooled
from pilothouse.demo.judges.judge import Judge

NUMBER = Judge("number", "the number that the answer is", lambda text: float(text or 0), 1.0)


def heard(said: dict[str, str]) -> Heard:
    return judged(NUMBER, list(said), [Answer((1,), text) for text in said.values()])


PLAIN = heard({"a": "0", "b": "5", "c": "2"})


def test_an_answer_is_compared_with_that_of_its_own_question() -> None:
    # In another order, and of some of the questions alone, as controls are asked.
    steered = heard({"c": "3", "a": "0.5"})
    assert changed(NUMBER, PLAIN, steered, 1) == [True, False]
    assert changed(NUMBER, PLAIN, steered, -1) == [False, False]


def test_share_and_effect_are_of_the_questions_that_were_asked() -> None:
    found = against(NUMBER, PLAIN, heard({"c": "3", "a": "0.5"}), 1, seed=0)
    assert found.n == 2
    assert found.changed.estimate == 0.5
    assert found.effect.estimate == 0.75


def test_towards_the_other_pole_the_effect_has_the_other_sign() -> None:
    steered = heard({"a": "-2", "b": "3", "c": "0"})
    assert against(NUMBER, PLAIN, steered, -1, seed=0).effect.estimate == 2.0
    assert against(NUMBER, PLAIN, steered, 1, seed=0).effect.estimate == -2.0


def test_draws_of_a_control_are_taken_together() -> None:
    both = pooled([heard({"a": "1"}), heard({"b": "2"})])
    assert both.questions == ("a", "b")
    assert both.scores == (1.0, 2.0)


def test_empty_answers_count_as_degenerate() -> None:
    assert heard({"a": "", "b": "", "c": ""}).degenerate == 1.0
