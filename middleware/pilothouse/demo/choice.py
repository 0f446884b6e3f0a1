"""Searches where a vector edits and how strongly, on the choosing questions, in three rounds.

Every place at every dose answers a few questions; the best answer more of them, and facts, and
then the best two at weaker and stronger doses; the best three answer all. What is tried goes to the
engine together, each as a program of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, NamedTuple

from pilothouse.demo.answers import Ask
from pilothouse.demo.evaluation import Bench, Heard, Terms, Towards, changed, progress
from pilothouse.demo.places import PLACES, Place, Scale, Steering, steering_at, terms_of
from pilothouse.demo.poles import Pole, Subject
from pilothouse.demo.questions import Fact
from pilothouse.demo.vector_card import AIM_FACTS, Tried

SCREEN_QUESTIONS, SEARCH_QUESTIONS, FINAL_QUESTIONS = 6, 20, 40
SCREENED, REFINED, FINAL = 5, 2, 3
"""Candidates that remain after each round: the screen, the refined doses, all questions."""
STEP: Final = 1.4
ENOUGH: Final = 0.75
"""Share changed, less what repeats itself, from which on facts decide: a little over the aim."""
FACTS_WEIGHT: Final = 0.25
PERPLEXITY_QUESTIONS: Final = 8


class Candidate(NamedTuple):
    """A place at a dose."""

    place: Place
    dose: float


class Chosen(NamedTuple):
    """The chosen candidate, all that were tried, and a remark where none was good enough."""

    candidate: Candidate
    tried: tuple[Tried, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Search:
    """The search for one pole.

    Args:
        plain: the unsteered answers to the choosing questions.
        known: choosing facts that the unsteered model answers right.
    """

    bench: Bench
    subject: Subject
    pole: Pole
    scale: Scale
    goal: Towards
    plain: Heard
    known: tuple[Fact, ...]

    def run(self) -> Chosen:
        """Look for the best candidate."""
        figures: dict[Candidate, Tried] = {}
        given = [Candidate(place, dose) for place in PLACES for dose in self.subject.doses]
        figures |= self._measured(given, SCREEN_QUESTIONS, with_facts=False)
        ahead = sorted(given, key=lambda each: (-figures[each].progress, each.dose))[:SCREENED]
        figures |= self._measured(ahead, SEARCH_QUESTIONS, with_facts=True)
        best = sorted(ahead, key=lambda each: merit(figures[each]), reverse=True)[:REFINED]
        finer = [
            Candidate(place, dose)
            for place, near in best
            for dose in (round(near / STEP, 2), round(near * STEP, 2))
        ]
        finer = [each for each in dict.fromkeys(finer) if each not in ahead]
        figures |= self._measured(finer, SEARCH_QUESTIONS, with_facts=True)
        last = sorted((*ahead, *finer), key=lambda each: merit(figures[each]), reverse=True)[:FINAL]
        figures |= self._measured(last, FINAL_QUESTIONS, with_facts=True, with_perplexity=True)
        limit = self.subject.max_perplexity_ratio
        candidate, note = chosen({each: figures[each] for each in last}, limit)
        return Chosen(candidate, tuple(figures.values()), note)

    def steering(self, candidate: Candidate) -> Steering:
        """Return a candidate as a card has it."""
        return steering_at(candidate.place, candidate.dose, self.pole.sign, self.scale)

    def _measured(
        self,
        given: Sequence[Candidate],
        questions: int,
        *,
        with_facts: bool,
        with_perplexity: bool = False,
    ) -> dict[Candidate, Tried]:
        bench, judge = self.bench, self.subject.judged_by
        plain = self.plain.first(questions)
        facts = self.known if with_facts else ()
        terms = [terms_of(self.subject.name, self.steering(each)) for each in given]
        title = f"{self.pole.name}: {len(given)} candidates, {len(plain.questions)} questions"
        # Together: a batch of few texts wastes the engine's time.
        bench.answerer.answers(
            [
                ask
                for each in terms
                for ask in (
                    *(Ask(question, each, judge.max_tokens) for question in plain.questions),
                    *facts_asked(self.subject, facts, each),
                )
            ],
            bench.phase,
            title,
        )
        heard = bench.hear(judge, [(plain.questions, each) for each in terms], title)
        found = {}
        for candidate, each, steered in zip(given, terms, heard, strict=True):
            ratio = None
            if with_perplexity:
                ratio = bench.perplexity(
                    plain.first(PERPLEXITY_QUESTIONS),
                    steered.first(PERPLEXITY_QUESTIONS),
                    f"{self.pole.name}: fluency",
                ).estimate
            found[candidate] = Tried(
                steering=self.steering(candidate),
                dose=candidate.dose,
                n=len(steered.questions),
                progress=progress(self.goal, plain, steered),
                changed=fmean(changed(self.goal, plain, steered)),
                degenerate=steered.degenerate,
                facts_kept=(
                    fmean(right(bench, self.subject, facts, each, title)) if facts else None
                ),
                perplexity_ratio=ratio,
            )
        return found


def facts_asked(subject: Subject, facts: Sequence[Fact], terms: Terms) -> list[Ask]:
    """Return the questions for facts, as they are asked of a subject."""
    return [Ask(each.question, terms, subject.fact_tokens) for each in facts]


def right(
    bench: Bench, subject: Subject, facts: Sequence[Fact], terms: Terms, title: str
) -> list[bool]:
    """Say of each fact whether the answer to its question holds it."""
    answers = bench.answerer.answers(facts_asked(subject, facts, terms), bench.phase, title)
    return [fact.is_in(answer.text) for fact, answer in zip(facts, answers, strict=True)]


def merit(tried: Tried) -> tuple[bool, float]:
    """Return what counts: that enough answers change, and then how many facts are kept.

    An answer that repeats itself is worse than one that did not change: each takes one off. Where
    not enough change, four facts weigh as much as one answer: what does nothing keeps all facts,
    and is still nothing.
    """
    net = tried.changed - tried.degenerate
    kept = min(tried.facts_kept or 0.0, AIM_FACTS)
    is_enough = net >= ENOUGH
    return is_enough, kept if is_enough else net + FACTS_WEIGHT * kept


def chosen(last: dict[Candidate, Tried], max_perplexity_ratio: float) -> tuple[Candidate, str]:
    """Return the candidate of most merit, of equal ones the weaker, and what is wrong with it.

    Only those within the bound on perplexity come into question, unless none is.
    """
    fluent = [
        each
        for each, figures in last.items()
        if figures.perplexity_ratio is not None and figures.perplexity_ratio <= max_perplexity_ratio
    ]
    note = "" if fluent else "nothing that was tried to the end stays fluent"
    return max(fluent or last, key=lambda each: (merit(last[each]), -each.dose)), note
