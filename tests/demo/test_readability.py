"""What is readable is asked of the unsteered model, which is asked for the language."""

from __future__ import annotations

from typing import cast

from pilothouse.demo.answers import Answer
from pilothouse.demo.evaluation import Bench, Heard
from pilothouse.demo.poles import Pole
from pilothouse.demo.vector_figures import readable
from pilothouse.training.pair import Message, Pair
from tests.support.models.rule_model import RuledAnswerer, ruled_bench

POLE = Pole("french", 1, "En français.")
PAIR = Pair(
    messages=(Message(role="user", content="Why?"),), positive="Parce que.", negative="Because."
)


def heard(questions: tuple[str, ...], tokens: int) -> Heard:
    answers = tuple(Answer((1,) * tokens, "un mot") for _ in questions)
    return Heard(questions, answers, (1.0,) * len(questions))


def bench() -> Bench:
    return ruled_bench(lambda _: "", lambda _: "")


def test_all_answers_are_read_behind_the_question_that_asks_for_the_language() -> None:
    on = bench()
    own = heard((POLE.worded("How?"), POLE.worded("When?")), 3)
    found = readable(on, [PAIR], POLE, own, heard(("How?", "When?", "Where?"), 5))
    assert found.n == 2
    assert (found.steered.estimate, found.own.estimate, found.written.estimate) == (5.0, 3.0, 2.0)
    assert (found.own_degenerate, found.written_n) == (0.0, 1)
    assert all(each.endswith(POLE.words) for each in cast(RuledAnswerer, on.answerer).read)


def test_an_answer_without_a_token_is_left_out() -> None:
    own = heard((POLE.worded("How?"), POLE.worded("When?")), 3)
    silent = Heard(own.questions, (Answer((), ""), own.answers[1]), own.scores)
    assert readable(bench(), [PAIR], POLE, own, silent).steered.estimate == 3.0
