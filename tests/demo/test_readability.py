"""What is readable is asked of the unsteered model, which is asked for the language."""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.contrast.pair import Message, Pair
from pilothouse.demo.answers import Answer
from pilothouse.demo.evaluation import Bench, Heard
from pilothouse.demo.poles import Pole
from pilothouse.demo.readability import readable

POLE = Pole("french", 1, "En français.")
PAIR = Pair(
    messages=(Message(role="user", content="Why?"),), positive="Parce que.", negative="Because."
)


class Model:
    """Is as surprised as answers have tokens, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def as_answer(self, text: str) -> Answer:
        return Answer((1,) * len(text.split()), text)

    def surprise(self, said: Sequence[tuple[str, Answer]], *_: object) -> list[float]:
        self.asked += [question for question, _ in said]
        return [float(len(answer.ids)) for _, answer in said]


def heard(questions: tuple[str, ...], tokens: int) -> Heard:
    answers = tuple(Answer((1,) * tokens, "un mot") for _ in questions)
    return Heard(questions, answers, (1.0,) * len(questions))


def test_all_answers_are_read_behind_the_question_that_asks_for_the_language() -> None:
    model = Model()
    bench = Bench(model, (), (), (), (), 1, 1, 0, lambda *_: lambda _: None)  # type: ignore[arg-type]
    own = heard((POLE.worded("How?"), POLE.worded("When?")), 3)
    found = readable(bench, [PAIR], POLE, own, heard(("How?", "When?", "Where?"), 5))
    assert found.n == 2
    assert (found.steered.estimate, found.own.estimate, found.written.estimate) == (5.0, 3.0, 2.0)
    assert (found.own_degenerate, found.written_n) == (0.0, 1)
    assert all(each.endswith(POLE.words) for each in model.asked)


def test_an_answer_without_a_token_is_left_out() -> None:
    own = heard((POLE.worded("How?"), POLE.worded("When?")), 3)
    silent = Heard(own.questions, (Answer((), ""), own.answers[1]), own.scores)
    bench = Bench(Model(), (), (), (), (), 1, 1, 0, lambda *_: lambda _: None)  # type: ignore[arg-type]
    assert readable(bench, [PAIR], POLE, own, silent).steered.estimate == 3.0
