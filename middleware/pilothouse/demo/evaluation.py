"""Compares answers with the plain ones of the same questions: how many changed, how far, how well.

Shape suffixes: N questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from pilothouse.artifacts.manifest import Interval
from pilothouse.demo.answers import Answer, Answerer, Ask
from pilothouse.demo.judges.judge import Judge, Sign
from pilothouse.demo.poles import Asked
from pilothouse.demo.questions import Fact
from pilothouse.demo.repetition import is_degenerate
from pilothouse.demo.vector_card import Against
from pilothouse.probes.metrics import wilson
from pilothouse.progress import Phase
from pilothouse.term import SteerTerm
from pilothouse.training.measure import mean_interval

Terms = tuple[SteerTerm, ...]
PLAIN_SHARE: Final = 0.9
"""The bar of a pole lies above this share of the plain answers."""


class Heard(NamedTuple):
    """Answers to some questions, with the judge's number for each."""

    questions: tuple[str, ...]
    answers: tuple[Answer, ...]
    scores: tuple[float, ...]

    @property
    def degenerate(self) -> float:
        """The share of answers that repeat themselves or are empty."""
        return fmean(is_degenerate(each.text) for each in self.answers)

    def first(self, count: int) -> Heard:
        """Return the first of them."""
        return Heard(self.questions[:count], self.answers[:count], self.scores[:count])


class Towards(NamedTuple):
    """The bar and margin of a change towards a pole.

    Args:
        bar: what nine in ten plain answers do not pass. A judge's number goes up and down from
            one answer to the next by itself, so that any edit moves some answers by any margin;
            beyond the bar lies one in ten of them, whatever the judge.
    """

    judge: Judge
    sign: Sign
    bar: float

    def is_changed(self, plain: float, steered: float, text: str) -> bool:
        """Say whether an answer lies beyond the bar, by the margin beyond the plain one.

        One that repeats itself does not count, whatever it repeats.
        """
        is_beyond = self.sign * (steered - self.bar) > 1e-9
        is_moved = self.judge.changed(plain, steered, self.sign)
        return is_beyond and is_moved and not is_degenerate(text)

    def progress(self, plain: float, steered: float, text: str) -> float:
        """Return how much of the way from the plain answer to the bar was gone, from 0 to 1."""
        if self.is_changed(plain, steered, text):
            return 1.0
        way = self.sign * (self.bar - plain)
        if way <= 0 or is_degenerate(text):
            return 0.0
        return min(1.0, max(0.0, self.sign * (steered - plain) / way))


@dataclass(frozen=True, slots=True)
class Bench:
    """The questions that every vector is measured on, and the engine that answers them."""

    answerer: Answerer
    choosing: tuple[str, ...]
    testing: tuple[str, ...]
    choosing_facts: tuple[Fact, ...]
    testing_facts: tuple[Fact, ...]
    draws: int
    """Controls of each kind; each answers its share of the first `controlled` test questions."""
    controlled: int
    seed: int
    phase: Phase

    def questions(self, asked: Asked) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the questions that choose and those that test."""
        if asked == "open":
            return self.choosing, self.testing
        given = (self.choosing_facts, self.testing_facts)
        choosing, testing = (tuple(each.question for each in part) for part in given)
        return choosing[: len(self.choosing)], testing[: len(self.testing)]

    def hear(
        self, judge: Judge, asked: Sequence[tuple[Sequence[str], Terms]], title: str
    ) -> list[Heard]:
        """Ask questions under terms; all go to the engine together, whatever their steering."""
        asks = [
            Ask(question, terms, judge.max_tokens)
            for questions, terms in asked
            for question in questions
        ]
        answers = iter(self.answerer.answers(asks, self.phase, title))
        return [
            judged(judge, questions, [next(answers) for _ in questions]) for questions, _ in asked
        ]

    def perplexity(self, plain: Heard, steered: Heard, title: str) -> Interval:
        """Return the steered answers' perplexity over the plain ones', under the unsteered model.

        Answers count alike, whatever their length.
        """
        said = list(zip(plain.questions * 2, (*plain.answers, *steered.answers), strict=True))
        nats_N = np.array(self.answerer.surprise(said, self.phase, title))
        count = len(plain.questions)
        return exp_interval(
            mean_interval(nats_N[count:] - nats_N[:count], plain.questions, self.seed)
        )


def exp_interval(log: Interval) -> Interval:
    """Return what an interval in nats is as a factor."""
    return Interval(estimate=math.exp(log.estimate), low=math.exp(log.low), high=math.exp(log.high))


def towards(judge: Judge, sign: Sign, plain: Heard) -> Towards:
    """Return what counts as changed, by a bar of plain answers.

    It is the least of their numbers that nine in ten do not pass.
    """
    ordered = sorted(sign * each for each in plain.scores)
    return Towards(judge, sign, sign * ordered[math.ceil(PLAIN_SHARE * len(ordered)) - 1])


def judged(judge: Judge, questions: Sequence[str], answers: Sequence[Answer]) -> Heard:
    """Return answers with the judge's numbers."""
    scores = tuple(judge.score(each.text) for each in answers)
    return Heard(tuple(questions), tuple(answers), scores)


def pooled(parts: Sequence[Heard]) -> Heard:
    """Return several as one."""
    return Heard(
        tuple(each for part in parts for each in part.questions),
        tuple(each for part in parts for each in part.answers),
        tuple(each for part in parts for each in part.scores),
    )


def changed(goal: Towards, plain: Heard, steered: Heard) -> list[bool]:
    """Say of each steered answer whether it changed from the plain one of its question."""
    return [goal.is_changed(*each) for each in _beside(plain, steered)]


def progress(goal: Towards, plain: Heard, steered: Heard) -> float:
    """Return how far the steered answers came on the way to the bar, on average."""
    return fmean(goal.progress(*each) for each in _beside(plain, steered))


def against(goal: Towards, plain: Heard, steered: Heard, seed: int) -> Against:
    """Return the figures of steered answers beside the plain ones of the same questions."""
    moved = changed(goal, plain, steered)
    move_N = np.array([after - before for before, after, _ in _beside(plain, steered)])
    return Against(
        n=len(moved),
        changed=wilson(sum(moved), len(moved)),
        effect=mean_interval(goal.sign * move_N, steered.questions, seed),
        degenerate=steered.degenerate,
    )


def _beside(plain: Heard, steered: Heard) -> list[tuple[float, float, str]]:
    """Return the plain number, the steered one and the steered text of each steered answer."""
    before = dict(zip(plain.questions, plain.scores, strict=True))
    said = zip(steered.questions, steered.scores, steered.answers, strict=True)
    return [(before[question], score, answer.text) for question, score, answer in said]
