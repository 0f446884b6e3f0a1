"""A model that answers by a rule, for what is computed of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from pilothouse.demo.answers import Answer, Answerer, Ask
from pilothouse.demo.evaluation import Bench
from pilothouse.demo.poles import FACT_TOKENS
from pilothouse.demo.questions import Fact
from pilothouse.term import SteerTerm

Said = Callable[[SteerTerm | None], str]
"""What is said, by the term that steers the output."""


class RuledAnswerer:
    """Answers by one rule, and briefly asked facts by another; remembers what it was asked."""

    model_id = "a rule"

    def __init__(self, said: Said, told: Said) -> None:
        self._said, self._told = said, told
        self.asked: list[Ask] = []
        self.read: list[str] = []

    def answers(self, asks: Sequence[Ask], *_: object) -> list[Answer]:
        """Answer each; an answer has one token."""
        self.asked += asks
        return [
            Answer((1,), rule(each.terms[-1] if each.terms else None))
            for each in asks
            for rule in [self._told if each.max_tokens == FACT_TOKENS else self._said]
        ]

    def as_answer(self, text: str) -> Answer:
        """Return an answer with a token for each word."""
        return Answer((1,) * len(text.split()), text)

    def surprise(self, said: Sequence[tuple[str, Answer]], *_: object) -> list[float]:
        """As surprised as an answer has tokens."""
        self.read += [question for question, _ in said]
        return [float(len(answer.ids)) for _, answer in said]


def ruled_bench(
    said: Said,
    told: Said,
    *,
    choosing: tuple[str, ...] = (),
    testing: tuple[str, ...] = (),
    choosing_facts: tuple[Fact, ...] = (),
    testing_facts: tuple[Fact, ...] = (),
    draws: int = 1,
) -> Bench:
    """Return a bench whose answers come by a rule."""
    answerer = RuledAnswerer(said, told)
    return Bench(
        cast(Answerer, answerer),
        choosing,
        testing,
        choosing_facts,
        testing_facts,
        draws,
        len(testing) // 2,
        0,
        lambda *_: lambda _: None,
    )
