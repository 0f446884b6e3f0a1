"""Measures a vector at its chosen place, on questions that chose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from pilothouse.artifacts.manifest import Interval
from pilothouse.demo.answers import Answer, Ask
from pilothouse.demo.choice import Chosen, Search, facts_asked, right
from pilothouse.demo.directions import control_name
from pilothouse.demo.evaluation import Bench, Heard, Terms, Towards, against, pooled, towards
from pilothouse.demo.places import Scale, Steering, steering_at, terms_of
from pilothouse.demo.poles import Pole, Subject
from pilothouse.demo.questions import Fact
from pilothouse.demo.vector_card import Example, FactsKept, PoleCard, Readable, unreached
from pilothouse.errors import ConfigError
from pilothouse.probes.metrics import wilson
from pilothouse.training.measure import mean_interval
from pilothouse.training.pair import Pair

PERPLEXITY_QUESTIONS: Final = 30
EXAMPLES: Final = 4
CONTROLS: Final = ("random", "shuffled")


class Measured(NamedTuple):
    """The figures of a subject's poles."""

    poles: tuple[PoleCard, ...]
    notes: tuple[str, ...]


class _Tested(NamedTuple):
    """A pole with what was chosen for it, before it is tested."""

    pole: Pole
    goal: Towards
    chosen: Chosen
    steering: Steering
    asked: tuple[tuple[Sequence[str], Terms], ...]
    """Plain, steered, each control; questions with the words behind them are asked plain."""


def loaded_name(vector: str, kind: str, draw: int) -> str:
    """Return the name under which a vector's control is loaded."""
    return f"{vector}-{control_name(kind, draw)}"


def measured(
    bench: Bench, subject: Subject, pairs: Sequence[Pair], scales: Mapping[str, Scale]
) -> Measured:
    """Choose place and dose for each pole and test it beside controls.

    The answerer has the subject's vector under its name, and its controls as `loaded_name` says.

    Args:
        bench: what vectors are measured on.
        subject: the vector.
        pairs: what the vector is fitted on.
        scales: measures of each of these vectors, by their names.
    """
    judge = subject.judged_by
    # All plain answers go to the engine together: small batches waste its time.
    plain = [
        Ask(question, (), judge.max_tokens)
        for asked in dict.fromkeys(each.asked for each in subject.poles)
        for part in bench.questions(asked)
        for question in part
    ]
    facts = (*bench.choosing_facts, *bench.testing_facts)
    bench.answerer.answers(
        [*plain, *facts_asked(subject, facts, ())],
        bench.phase,
        f"{subject.name}: plain",
    )
    choosing_known = known(bench, subject, bench.choosing_facts)
    testing_known = known(bench, subject, bench.testing_facts)[: len(bench.testing)]
    tested = [_chosen(bench, subject, each, scales, choosing_known) for each in subject.poles]
    bench.answerer.answers(
        [
            ask
            for each in tested
            for ask in (
                *(Ask(q, terms, judge.max_tokens) for part, terms in each.asked for q in part),
                *facts_asked(subject, testing_known, terms_of(subject.name, each.steering)),
            )
        ],
        bench.phase,
        f"{subject.name}: test and facts",
    )
    cards = tuple(_pole_card(bench, subject, pairs, each, testing_known) for each in tested)
    notes = tuple(f"{each.pole.name}: {each.chosen.note}" for each in tested if each.chosen.note)
    return Measured(cards, notes)


def known(bench: Bench, subject: Subject, facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Return the facts that the unsteered model answers right.

    Raises:
        ConfigError: there is none.
    """
    found = right(bench, subject, facts, (), "facts: plain")
    kept = tuple(fact for fact, is_right in zip(facts, found, strict=True) if is_right)
    if not kept:
        raise ConfigError(
            f"facts: the unsteered model answers none of {len(facts)} right, so that nothing can "
            "be kept: ask what it knows"
        )
    return kept


def _chosen(
    bench: Bench,
    subject: Subject,
    pole: Pole,
    scales: Mapping[str, Scale],
    choosing_known: tuple[Fact, ...],
) -> _Tested:
    judge = subject.judged_by
    choosing, testing = bench.questions(pole.asked)
    [plain] = bench.hear(judge, [(choosing, ())], f"{pole.name}: plain")
    goal = towards(judge, pole.sign, plain)
    search = Search(bench, subject, pole, scales[subject.name], goal, plain, choosing_known)
    found = search.run()
    place, dose = found.candidate
    asked: list[tuple[Sequence[str], Terms]] = [
        (testing, ()),
        (testing, terms_of(subject.name, search.steering(found.candidate))),
    ]
    for kind in CONTROLS:
        for draw in range(bench.draws):
            name = loaded_name(subject.name, kind, draw)
            terms = terms_of(name, steering_at(place, dose, pole.sign, scales[name]))
            asked.append((testing[draw : bench.controlled : bench.draws], terms))
    asked.append(([pole.worded(each) for each in testing[: bench.controlled]], ()))
    return _Tested(pole, goal, found, search.steering(found.candidate), tuple(asked))


def _pole_card(
    bench: Bench,
    subject: Subject,
    pairs: Sequence[Pair],
    tested: _Tested,
    testing_known: Sequence[Fact],
) -> PoleCard:
    pole, goal, steering = tested.pole, tested.goal, tested.steering
    heard = bench.hear(subject.judged_by, tested.asked, f"{pole.name}: test")
    plain, steered, *controls, asked_so = heard
    random, shuffled = (
        pooled(controls[first * bench.draws : (first + 1) * bench.draws])
        for first in range(len(CONTROLS))
    )
    # Beside the plain answer of the same question, which had no words behind it.
    worded = Heard(plain.questions[: bench.controlled], asked_so.answers, asked_so.scores)
    is_right = right(
        bench, subject, testing_known, terms_of(subject.name, steering), f"{pole.name}: facts"
    )
    said = zip(plain.questions, plain.answers, steered.answers, strict=True)
    card = PoleCard(
        name=pole.name,
        asked=pole.asked,
        steering=steering,
        dose=tested.chosen.candidate.dose,
        bar=goal.bar,
        plain=fmean(plain.scores),
        plain_degenerate=plain.degenerate,
        tried=tested.chosen.tried,
        steered=against(goal, plain, steered, bench.seed),
        random=against(goal, plain, random, bench.seed),
        shuffled=against(goal, plain, shuffled, bench.seed),
        words=pole.words,
        worded=against(goal, plain, worded, bench.seed),
        facts=FactsKept(n=len(is_right), kept=wilson(sum(is_right), len(is_right))),
        perplexity_ratio=bench.perplexity(
            plain.first(PERPLEXITY_QUESTIONS),
            steered.first(PERPLEXITY_QUESTIONS),
            f"{pole.name}: perplexity",
        ),
        perplexity_n=min(PERPLEXITY_QUESTIONS, len(steered.answers)),
        reached=fmean(steered.scores),
        readable=(readable(bench, pairs, pole, asked_so, steered) if subject.is_language else None),
        examples=tuple(
            Example(question=question, plain=before.text, steered=after.text)
            for question, before, after in list(said)[:EXAMPLES]
        ),
        findings=(),
    )
    return card.model_copy(update={"findings": unreached(card)})


ANSWERS: Final = 30


def readable(
    bench: Bench, pairs: Sequence[Pair], pole: Pole, own: Heard, steered: Heard
) -> Readable:
    """Return how surprising answers are to the unsteered model that is asked for the language.

    Args:
        bench: what vectors are measured on.
        pole: the language, as a pole of the vector.
        pairs: those of the vector, whose positive answers people wrote in the language.
        own: the unsteered model's answers to questions with the pole's words behind them.
        steered: answers to the same questions without them, in the same order.
    """
    count = min(ANSWERS, len(own.questions), len(steered.questions))
    asked = own.questions[:count]
    people = [
        (pole.worded(each.messages[-1].content), bench.answerer.as_answer(each.positive))
        for each in pairs
        if each.messages
    ][:ANSWERS]
    title = f"{pole.name}: readable"
    return Readable(
        n=count,
        steered=_nats(bench, list(zip(asked, steered.answers, strict=False)), title),
        own=_nats(bench, list(zip(asked, own.answers, strict=False)), title),
        own_degenerate=own.first(count).degenerate,
        written=_nats(bench, people, title),
        written_n=len(people),
    )


def _nats(bench: Bench, said: Sequence[tuple[str, Answer]], title: str) -> Interval:
    """Return the mean surprise with its interval; answers without a token are left out."""
    spoken = [each for each in said if each[1].ids]
    nats_N = np.array(bench.answerer.surprise(spoken, bench.phase, title))
    return mean_interval(nats_N, [question for question, _ in spoken], bench.seed)
