"""Answers beside the plain ones of the same questions: how many changed, how far, how fluently.

Shape suffixes: N questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from pilothouse.contrast.measure import mean_interval
from pilothouse.demo.answers import Answer, Answerer, Ask
from pilothouse.demo.judges.judge import Judge, Sign
from pilothouse.demo.questions import Fact
from pilothouse.demo.repetition import is_degenerate
from pilothouse.demo.vector_card import Against
from pilothouse.model.manifest import Interval
from pilothouse.probe.metrics import wilson
from pilothouse.progress import Phase
from pilothouse.term import SteerTerm

Terms = tuple[SteerTerm, ...]


class Heard(NamedTuple):
    """Answers to some questions, and what the judge makes of each."""

    questions: tuple[str, ...]
    answers: tuple[Answer, ...]
    scores: tuple[float, ...]

    @property
    def degenerate(self) -> float:
        """Share of answers that repeat themselves or are empty."""
        return fmean(is_degenerate(each.text) for each in self.answers)

    def first(self, count: int) -> Heard:
        """Return the first of them."""
        return Heard(self.questions[:count], self.answers[:count], self.scores[:count])


@dataclass(frozen=True, slots=True)
class Bench:
    """What every vector is measured on, and with."""

    answerer: Answerer
    choosing: tuple[str, ...]
    testing: tuple[str, ...]
    facts: tuple[Fact, ...]
    draws: int
    """Controls of each kind; each answers its share of the first `controlled` test questions."""
    controlled: int
    seed: int
    phase: Phase

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
        log = mean_interval(nats_N[count:] - nats_N[:count], plain.questions, self.seed)
        return Interval(
            estimate=math.exp(log.estimate), low=math.exp(log.low), high=math.exp(log.high)
        )


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


def changed(judge: Judge, plain: Heard, steered: Heard, sign: Sign) -> list[bool]:
    """Say of each steered answer whether it changed from the plain one of its question."""
    before = _scores_of(plain, steered.questions)
    return [
        judge.changed(one, other, sign) for one, other in zip(before, steered.scores, strict=True)
    ]


def against(judge: Judge, plain: Heard, steered: Heard, sign: Sign, seed: int) -> Against:
    """Return the figures of steered answers beside the plain ones of the same questions."""
    moved = changed(judge, plain, steered, sign)
    before_N = np.array(_scores_of(plain, steered.questions))
    return Against(
        n=len(moved),
        changed=wilson(sum(moved), len(moved)),
        effect=mean_interval(sign * (np.array(steered.scores) - before_N), steered.questions, seed),
        degenerate=steered.degenerate,
    )


def _scores_of(heard: Heard, questions: Sequence[str]) -> list[float]:
    by_question = dict(zip(heard.questions, heard.scores, strict=True))
    return [by_question[each] for each in questions]
