"""Steered answers are counted beside the plain answers of the same questions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.demo.answers import Answer
from pilothouse.demo.evaluation import (
    Heard,
    Towards,
    against,
    changed,
    judged,
    pooled,
    progress,
    towards,
)
from pilothouse.demo.judges.judge import Judge

NUMBER = Judge("number", "the number in the answer", lambda text: float(text.split()[-1]), 1.0)
UP, DOWN = Towards(NUMBER, 1, 4.0), Towards(NUMBER, -1, 1.0)
NUMBERS = st.floats(-10, 10)


def heard(said: dict[str, float]) -> Heard:
    return judged(NUMBER, list(said), [Answer((1,), f"it is {each}") for each in said.values()])


PLAIN = heard({"a": 0, "b": 5, "c": 3.5})


def test_an_answer_changes_beyond_the_bar_and_beyond_the_plain_one_of_its_question() -> None:
    # In another order, and of some of the questions alone, as controls are asked.
    assert changed(UP, PLAIN, heard({"c": 5, "a": 4, "b": 5.5})) == [True, False, False]
    assert changed(DOWN, PLAIN, heard({"c": 0, "a": -0.5})) == [True, False]


def test_an_answer_that_repeats_itself_has_not_changed() -> None:
    text = f"{'so glad to help you ' * 10} 9"
    assert not UP.is_changed(0, 9, text)
    assert UP.is_changed(0, 9, "so glad to help you 9")
    assert UP.progress(0, 9, text) == 0.0


def test_nine_in_ten_plain_answers_do_not_pass_the_bar() -> None:
    plain = heard({str(each): each for each in range(60)})
    assert towards(NUMBER, 1, plain).bar == 53
    assert towards(NUMBER, -1, plain).bar == 6


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_whatever_the_plain_answers_at_most_one_in_ten_lies_beyond_the_bar(
    values: list[float],
) -> None:
    plain = heard({str(index): value for index, value in enumerate(values)})
    for sign in (1, -1):
        goal = towards(NUMBER, sign, plain)
        assert sum(sign * (each - goal.bar) > 0 for each in plain.scores) <= 0.1 * len(values)


@given(NUMBERS, NUMBERS)
def test_no_answer_changes_towards_both_poles(plain: float, steered: float) -> None:
    text = "it is so"
    assert not (UP.is_changed(plain, steered, text) and DOWN.is_changed(plain, steered, text))


@given(NUMBERS, NUMBERS)
def test_progress_is_whole_where_an_answer_changed_and_none_where_it_went_back(
    plain: float, steered: float
) -> None:
    found = UP.progress(plain, steered, "it is so")
    assert 0.0 <= found <= 1.0
    assert found == 1.0 or not UP.is_changed(plain, steered, "it is so")
    assert found == 0.0 or steered > plain


def test_progress_is_the_share_of_the_way_to_the_bar() -> None:
    assert progress(UP, PLAIN, heard({"a": 1})) == 0.25
    assert progress(UP, PLAIN, heard({"a": 1, "c": 5})) == 0.625


def test_share_and_effect_are_of_the_questions_that_were_asked() -> None:
    found = against(UP, PLAIN, heard({"c": 5, "a": 0.5}), seed=0)
    assert found.n == 2
    assert found.changed.estimate == 0.5
    assert found.effect.estimate == 1.0


def test_towards_the_other_pole_the_effect_has_the_other_sign() -> None:
    steered = heard({"a": -2, "b": 3, "c": 1.5})
    assert against(DOWN, PLAIN, steered, seed=0).effect.estimate == 2.0
    assert against(UP, PLAIN, steered, seed=0).effect.estimate == -2.0


def test_draws_of_a_control_are_taken_together() -> None:
    both = pooled([heard({"a": 1}), heard({"b": 2})])
    assert both.questions == ("a", "b")
    assert both.scores == (1.0, 2.0)


def test_empty_answers_count_as_degenerate() -> None:
    said = Heard(("a", "b"), (Answer((), ""), Answer((1,), "!!!")), (0.0, 0.0))
    assert said.degenerate == 1.0
