"""From answers to the figures of a card: a strength that is chosen, and what it does on others.

Shape suffixes: N questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from pilothouse.contrast.measure import mean_interval
from pilothouse.demo.answers import Answer, Answerer, Ask
from pilothouse.demo.directions import control_name
from pilothouse.demo.judges.judge import Judge, Sign
from pilothouse.demo.poles import Pole, Subject, terms_of
from pilothouse.demo.questions import Fact
from pilothouse.demo.repetition import is_degenerate
from pilothouse.demo.vector_card import (
    Against,
    Example,
    FactsKept,
    PoleCard,
    Tried,
    unreached,
)
from pilothouse.errors import ConfigError
from pilothouse.model.manifest import Interval
from pilothouse.probe.metrics import wilson
from pilothouse.progress import Phase

ENOUGH: Final = 0.75
"""Share changed at which a strength is strong enough: a little over what is aimed at."""
MAX_MORE_DEGENERATE: Final = 0.1
MAX_PERPLEXITY_RATIO: Final = 3.0
PERPLEXITY_QUESTIONS: Final = 30
FACT_TOKENS: Final = 20
EXAMPLES: Final = 4
CONTROLS: Final = ("random", "shuffled")


class Heard(NamedTuple):
    """Answers to some questions, and what the judge makes of each."""

    questions: tuple[str, ...]
    answers: tuple[Answer, ...]
    scores: tuple[float, ...]

    @property
    def degenerate(self) -> float:
        """Share of answers that repeat themselves or are empty."""
        return fmean(is_degenerate(each.text) for each in self.answers)

    def picked(self, which: slice) -> Heard:
        """Some of the questions."""
        return Heard(self.questions[which], self.answers[which], self.scores[which])


@dataclass(frozen=True, slots=True)
class Bench:
    """What every vector is measured on, and with."""

    answerer: Answerer
    choosing: tuple[str, ...]
    testing: tuple[str, ...]
    facts: tuple[Fact, ...]
    draws: int
    seed: int
    phase: Phase


class Measured(NamedTuple):
    """The figures of a subject's poles, and of the unsteered model."""

    poles: tuple[PoleCard, ...]
    plain: float
    plain_degenerate: float
    notes: tuple[str, ...]


def measured(bench: Bench, subject: Subject) -> Measured:
    """Choose a strength for each pole and test it beside controls.

    The answerer has the subject's vector and its controls, under the names that `loaded_name` and
    `control_name` give.
    """
    judge = subject.judged_by
    plain = _heard(bench, judge, bench.choosing, [()], f"{subject.name}: plain, choosing")[0]
    strengths, tried, notes = {}, {}, []
    for pole in subject.poles:
        tried[pole] = _tried(bench, subject, pole, plain)
        strengths[pole], note = _chosen(tried[pole])
        if note:
            notes.append(f"{pole.name}: {note}")
    # Everything that tests goes to the engine together, whatever its steering.
    whole, draws = bench.testing, bench.draws
    asked: list[tuple[tuple[str, ...], str, float]] = [(whole, subject.name, 0.0)]
    for pole in subject.poles:
        strength = pole.sign * strengths[pole]
        asked.append((whole, subject.name, strength))
        asked += [
            (whole[draw::draws], loaded_name(subject.name, kind, draw), strength)
            for kind in CONTROLS
            for draw in range(draws)
        ]
    terms = [
        (questions, terms_of(vector, strength, subject.where) if strength else ())
        for questions, vector, strength in asked
    ]
    asks = [Ask(q, steer, judge.max_tokens) for questions, steer in terms for q in questions]
    answers = iter(bench.answerer.answers(asks, bench.phase, f"{subject.name}: test"))
    heard = [
        _judged(judge, questions, [next(answers) for _ in questions]) for questions, _ in terms
    ]
    plain, rest = heard[0], heard[1:]
    width = 1 + len(CONTROLS) * draws
    cards = tuple(
        _pole_card(
            bench, subject, pole, pole.sign * strengths[pole], tried[pole], plain,
            rest[index * width : (index + 1) * width],
        )
        for index, pole in enumerate(subject.poles)
    )  # fmt: skip
    return Measured(cards, fmean(plain.scores), plain.degenerate, tuple(notes))


def loaded_name(vector: str, kind: str, draw: int) -> str:
    """Return the name under which a vector's control is loaded."""
    return f"{vector}-{control_name(kind, draw)}"


def _heard(
    bench: Bench, judge: Judge, questions: Sequence[str], steerings: Sequence[tuple[object, ...]],
    title: str,
) -> list[Heard]:  # fmt: skip
    asks = [Ask(each, steer, judge.max_tokens) for steer in steerings for each in questions]  # type: ignore[arg-type]
    answers = bench.answerer.answers(asks, bench.phase, title)
    size = len(questions)
    return [
        _judged(judge, questions, answers[first : first + size])
        for first in range(0, len(answers), size)
    ]


def _judged(judge: Judge, questions: Sequence[str], answers: Sequence[Answer]) -> Heard:
    scores = tuple(judge.score(each.text) for each in answers)
    return Heard(tuple(questions), tuple(answers), scores)


def _changed(judge: Judge, plain: Heard, steered: Heard, sign: Sign) -> list[bool]:
    return [
        judge.changed(before, after, sign)
        for before, after in zip(plain.scores, steered.scores, strict=True)
    ]


def _tried(bench: Bench, subject: Subject, pole: Pole, plain: Heard) -> tuple[Tried, ...]:
    """Every strength on the choosing questions, with perplexity where it comes into question."""
    judge = subject.judged_by
    steerings = [
        terms_of(subject.name, pole.sign * each, subject.where) for each in subject.strengths
    ]
    heard = _heard(bench, judge, bench.choosing, steerings, f"{pole.name}: strengths")
    found = []
    for strength, steered in zip(subject.strengths, heard, strict=True):
        ratio = None
        if steered.degenerate <= plain.degenerate + MAX_MORE_DEGENERATE:
            few = slice(PERPLEXITY_QUESTIONS)
            ratio = _perplexity(
                bench, plain.picked(few), steered.picked(few), f"{pole.name}: fluency"
            ).estimate
        found.append(
            Tried(
                strength=strength,
                changed=fmean(_changed(judge, plain, steered, pole.sign)),
                degenerate=steered.degenerate,
                perplexity_ratio=ratio,
            )
        )
    return tuple(found)


def _chosen(tried: Sequence[Tried]) -> tuple[float, str]:
    """Return the weakest strength that changes enough, or else the one that changes most.

    Only strengths within the bounds on repeating and perplexity come into question. Where none
    is, it is the weakest of all, and the second value says so.
    """
    fluent = [
        each
        for each in tried
        if each.perplexity_ratio is not None and each.perplexity_ratio <= MAX_PERPLEXITY_RATIO
    ]
    if not fluent:
        return min(each.strength for each in tried), "no strength that was tried stays fluent"
    enough = [each for each in fluent if each.changed >= ENOUGH]
    if enough:
        return min(each.strength for each in enough), ""
    return max(fluent, key=lambda each: (each.changed, -each.strength)).strength, ""


def _pole_card(
    bench: Bench,
    subject: Subject,
    pole: Pole,
    strength: float,
    tried: tuple[Tried, ...],
    plain: Heard,
    heard: Sequence[Heard],
) -> PoleCard:
    steered, controls = heard[0], heard[1:]
    random, shuffled = (
        _pooled(controls[first * bench.draws : (first + 1) * bench.draws])
        for first in range(len(CONTROLS))
    )
    ratio = _perplexity(bench, plain, steered, f"{pole.name}: perplexity")
    card = PoleCard(
        name=pole.name,
        strength=strength,
        tried=tried,
        steered=_against(bench, subject.judged_by, plain, steered, pole.sign),
        random=_against(bench, subject.judged_by, plain, random, pole.sign),
        shuffled=_against(bench, subject.judged_by, plain, shuffled, pole.sign),
        facts=_facts(bench, subject, pole, strength),
        perplexity_ratio=ratio,
        perplexity_n=len(steered.answers),
        reached=fmean(steered.scores),
        examples=tuple(
            Example(question=question, plain=before.text, steered=after.text)
            for question, before, after in list(
                zip(plain.questions, plain.answers, steered.answers, strict=True)
            )[:EXAMPLES]
        ),
        findings=(),
    )
    return card.model_copy(update={"findings": unreached(card, plain.degenerate)})


def _pooled(parts: Sequence[Heard]) -> Heard:
    questions, answers, scores = (
        tuple(each for part in parts for each in part[column]) for column in range(3)
    )
    return Heard(questions, answers, scores)  # type: ignore[arg-type]


def _against(bench: Bench, judge: Judge, plain: Heard, steered: Heard, sign: Sign) -> Against:
    """Steered answers beside the plain ones of the same questions."""
    by_question = dict(zip(plain.questions, plain.scores, strict=True))
    before = plain._replace(
        questions=steered.questions,
        answers=steered.answers,
        scores=tuple(by_question[each] for each in steered.questions),
    )
    changed = _changed(judge, before, steered, sign)
    moved_N = sign * (np.array(steered.scores) - np.array(before.scores))
    return Against(
        n=len(changed),
        changed=wilson(sum(changed), len(changed)),
        effect=mean_interval(moved_N, steered.questions, bench.seed),
        degenerate=steered.degenerate,
    )


def _perplexity(bench: Bench, plain: Heard, steered: Heard, title: str) -> Interval:
    """Perplexity of the steered answers over the plain ones', both under the unsteered model."""
    count = len(plain.questions)
    said = list(zip(plain.questions * 2, (*plain.answers, *steered.answers), strict=True))
    nats = bench.answerer.surprise(said, bench.phase, title)
    more_N = np.array(nats[count:]) - np.array(nats[:count])
    log = mean_interval(more_N, plain.questions, bench.seed)
    return Interval(
        estimate=math.exp(log.estimate), low=math.exp(log.low), high=math.exp(log.high)
    )


def _facts(bench: Bench, subject: Subject, pole: Pole, strength: float) -> FactsKept:
    known = _known(bench)
    asks = [
        Ask(each.question, terms_of(subject.name, strength, subject.where), FACT_TOKENS)
        for each in known
    ]
    answers = bench.answerer.answers(asks, bench.phase, f"{pole.name}: facts")
    right = [fact.is_in(answer.text) for fact, answer in zip(known, answers, strict=True)]
    return FactsKept(n=len(known), kept=wilson(sum(right), len(right)))


def _known(bench: Bench) -> list[Fact]:
    """The facts that the unsteered model answers right."""
    asks = [Ask(each.question, (), FACT_TOKENS) for each in bench.facts]
    answers = bench.answerer.answers(asks, bench.phase, "facts: plain")
    known = [
        fact
        for fact, answer in zip(bench.facts, answers, strict=True)
        if fact.is_in(answer.text)
    ]
    if not known:
        raise ConfigError(
            f"facts: the unsteered model answers none of {len(bench.facts)} right, so that nothing "
            "can be kept: ask what it knows"
        )
    return known
