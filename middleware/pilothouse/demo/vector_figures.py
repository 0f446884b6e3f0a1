"""The figures of a vector at the strength that was chosen, on questions that chose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final, NamedTuple

from pilothouse.demo.answers import Ask
from pilothouse.demo.directions import control_name
from pilothouse.demo.evaluation import Bench, Heard, Terms, against, pooled
from pilothouse.demo.poles import Pole, Subject, terms_of
from pilothouse.demo.questions import Fact
from pilothouse.demo.strengths import chosen, tried
from pilothouse.demo.vector_card import Example, FactsKept, PoleCard, Tried, unreached
from pilothouse.errors import ConfigError
from pilothouse.probe.metrics import wilson

FACT_TOKENS: Final = 12
PERPLEXITY_QUESTIONS: Final = 70
EXAMPLES: Final = 4
CONTROLS: Final = ("random", "shuffled")


class Measured(NamedTuple):
    """The figures of a subject's poles, and of the unsteered model."""

    poles: tuple[PoleCard, ...]
    plain: float
    plain_degenerate: float
    notes: tuple[str, ...]


def loaded_name(vector: str, kind: str, draw: int) -> str:
    """Return the name under which a vector's control is loaded."""
    return f"{vector}-{control_name(kind, draw)}"


def measured(bench: Bench, subject: Subject) -> Measured:
    """Choose a strength for each pole and test it beside controls.

    The answerer has the subject's vector under its name, and its controls as `loaded_name` says.
    """
    judge = subject.judged_by
    # All that chooses, and the facts, go to the engine together: small batches waste its time.
    bench.answerer.answers(
        [*_choosing(bench, subject), *_facts_under(bench.facts, ())], bench.phase,
        f"{subject.name}: strengths and facts",
    )  # fmt: skip
    [plain] = bench.hear(judge, [(bench.choosing, ())], f"{subject.name}: plain, choosing")
    of_strengths = {pole: tried(bench, subject, pole, plain) for pole in subject.poles}
    strengths: dict[Pole, float] = {}
    notes = []
    for pole, figures in of_strengths.items():
        strength, note = chosen(figures, subject.max_perplexity_ratio)
        strengths[pole] = pole.sign * strength
        notes += [f"{pole.name}: {note}"] if note else []
    asked: list[tuple[Sequence[str], Terms]] = [(bench.testing, ())]
    for strength in strengths.values():
        asked += _steerings(bench, subject, strength)
    known = _known(bench)
    bench.answerer.answers(
        [
            *(Ask(q, terms, judge.max_tokens) for questions, terms in asked for q in questions),
            *(
                ask
                for strength in strengths.values()
                for ask in _facts_under(known, terms_of(subject.name, strength, subject.where))
            ),
        ],
        bench.phase, f"{subject.name}: test and facts",
    )  # fmt: skip
    plain, *rest = bench.hear(judge, asked, f"{subject.name}: test")
    width = len(rest) // len(subject.poles)
    cards = tuple(
        _pole_card(
            bench, subject, pole, strengths[pole], of_strengths[pole], plain,
            rest[index * width : (index + 1) * width],
        )
        for index, pole in enumerate(subject.poles)
    )  # fmt: skip
    return Measured(cards, fmean(plain.scores), plain.degenerate, tuple(notes))


def _choosing(bench: Bench, subject: Subject) -> list[Ask]:
    """Ask the choosing questions unsteered, and at every strength of every pole."""
    terms = [
        (),
        *(
            terms_of(subject.name, pole.sign * strength, subject.where)
            for pole in subject.poles
            for strength in subject.strengths
        ),
    ]
    return [
        Ask(question, each, subject.judged_by.max_tokens)
        for each in terms
        for question in bench.choosing
    ]


def _facts_under(facts: Sequence[Fact], terms: Terms) -> list[Ask]:
    return [Ask(each.question, terms, FACT_TOKENS) for each in facts]


def _steerings(
    bench: Bench, subject: Subject, strength: float
) -> list[tuple[Sequence[str], Terms]]:
    """The vector on every test question; of each kind of control, each draw on its share."""
    where, draws = subject.where, bench.draws
    return [
        (bench.testing, terms_of(subject.name, strength, where)),
        *(
            (
                bench.testing[draw : bench.controlled : draws],
                terms_of(loaded_name(subject.name, kind, draw), strength, where),
            )
            for kind in CONTROLS
            for draw in range(draws)
        ),
    ]


def _pole_card(
    bench: Bench,
    subject: Subject,
    pole: Pole,
    strength: float,
    of_strengths: tuple[Tried, ...],
    plain: Heard,
    heard: Sequence[Heard],
) -> PoleCard:
    steered, *controls = heard
    random, shuffled = (
        pooled(controls[first * bench.draws : (first + 1) * bench.draws])
        for first in range(len(CONTROLS))
    )
    figures = {
        kind: against(subject.judged_by, plain, each, pole.sign, bench.seed)
        for kind, each in (("steered", steered), ("random", random), ("shuffled", shuffled))
    }
    said = zip(plain.questions, plain.answers, steered.answers, strict=True)
    card = PoleCard(
        name=pole.name,
        strength=strength,
        tried=of_strengths,
        steered=figures["steered"],
        random=figures["random"],
        shuffled=figures["shuffled"],
        facts=_facts(bench, subject, pole, strength),
        perplexity_ratio=bench.perplexity(
            plain.first(PERPLEXITY_QUESTIONS),
            steered.first(PERPLEXITY_QUESTIONS),
            f"{pole.name}: perplexity",
        ),
        perplexity_n=min(PERPLEXITY_QUESTIONS, len(steered.answers)),
        reached=fmean(steered.scores),
        examples=tuple(
            Example(question=question, plain=before.text, steered=after.text)
            for question, before, after in list(said)[:EXAMPLES]
        ),
        findings=(),
    )
    return card.model_copy(update={"findings": unreached(card, plain.degenerate)})


def _facts(bench: Bench, subject: Subject, pole: Pole, strength: float) -> FactsKept:
    known = _known(bench)
    terms = terms_of(subject.name, strength, subject.where)
    asks = _facts_under(known, terms)
    answers = bench.answerer.answers(asks, bench.phase, f"{pole.name}: facts")
    right = [fact.is_in(answer.text) for fact, answer in zip(known, answers, strict=True)]
    return FactsKept(n=len(known), kept=wilson(sum(right), len(right)))


def _known(bench: Bench) -> list[Fact]:
    """The facts that the unsteered model answers right."""
    asks = _facts_under(bench.facts, ())
    answers = bench.answerer.answers(asks, bench.phase, "facts: plain")
    known = [
        fact for fact, answer in zip(bench.facts, answers, strict=True) if fact.is_in(answer.text)
    ]
    if not known:
        raise ConfigError(
            f"facts: the unsteered model answers none of {len(bench.facts)} right, so that nothing "
            "can be kept: ask what it knows"
        )
    return known
