"""Measures what setting a labelled feature does to answers, by the label's own words.

A feature is set to one code at the prompt's last token and in every token of the answer; what that
writes is given as a share of the stream's mean length. On the choosing questions every label's
feature is tried at each strength; those that change most answers are then tested on others, beside
features by lot that are set to codes of the same length.

An answer is changed where it has more different words of the label than the plain answer to the
same question, and more than nine in ten plain answers have, and does not repeat itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from pilothouse.artifacts.manifest import Interval
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.demo.answers import Answer, Ask
from pilothouse.demo.repetition import is_degenerate
from pilothouse.demo.sae.concepts import Concept
from pilothouse.demo.sae.feature_answers import FeatureAnswerer
from pilothouse.demo.sae.sae_card import EditCard, Screened
from pilothouse.demo.vector_card import Against, Example
from pilothouse.probes.metrics import wilson
from pilothouse.progress import Phase
from pilothouse.term import SteerTerm
from pilothouse.training.measure import mean_interval

STRENGTHS: Final = (0.25, 0.4)
TESTED: Final = 6
SCREENED: Final = 24
"""How many labels are tried: those that their features tell best."""
ANSWER_TOKENS: Final = 24
PERPLEXITY_QUESTIONS: Final = 15
EXAMPLES: Final = 3
PLAIN_SHARE: Final = 0.9
"""A changed answer has more of the words than this share of the plain ones."""

Terms = tuple[SteerTerm, ...]
Asked = tuple[Sequence[str], Terms]


class Questions(NamedTuple):
    """Open questions, and features by lot that each edit is tested beside."""

    choosing: tuple[str, ...]
    testing: tuple[str, ...]
    draws: int


class Candidate(NamedTuple):
    """A label's feature, and how often each strength changed an answer."""

    feature: int
    concept: Concept
    tried: tuple[Screened, ...]

    @property
    def best(self) -> Screened:
        """The strength that changes most; of equals the weakest."""
        return max(self.tried, key=lambda each: (each.changed, -each.strength))


class Heard(NamedTuple):
    """Answers to some questions."""

    questions: tuple[str, ...]
    answers: tuple[Answer, ...]

    def counts(self, concept: Concept) -> list[float]:
        """Return how many different words of a label each answer has."""
        return [concept.count(each.text) for each in self.answers]


def bar_of(counts: Sequence[float]) -> float:
    """Return the least of the plain answers' counts that nine in ten of them do not pass."""
    return sorted(counts)[math.ceil(PLAIN_SHARE * len(counts)) - 1]


def changed(concept: Concept, plain: Heard, edited: Heard) -> list[bool]:
    """Say of each edited answer whether it changed towards the label."""
    counts = plain.counts(concept)
    bar, before = bar_of(counts), dict(zip(plain.questions, counts, strict=True))
    return [
        count > max(bar, before[question])
        for question, count in zip(edited.questions, edited.counts(concept), strict=True)
    ]


def against(concept: Concept, plain: Heard, edited: Heard, seed: int) -> Against:
    """Return the figures of edited answers beside the plain ones of the same questions."""
    moved = changed(concept, plain, edited)
    before = dict(zip(plain.questions, plain.counts(concept), strict=True))
    more_N = np.array(edited.counts(concept)) - [before[each] for each in edited.questions]
    return Against(
        n=len(moved),
        changed=wilson(sum(moved), len(moved)),
        effect=mean_interval(more_N, edited.questions, seed),
        degenerate=fmean(is_degenerate(each.text) for each in edited.answers),
    )


def value_of(sae: Sae, feature: int, strength: float) -> float:
    """Return the code that writes such a share of the stream's mean length."""
    assert sae.average_norm is not None
    length = float(np.linalg.norm(sae.decoder_MD.row(feature)))
    return round(strength * sae.average_norm / length, 3)


def terms_of(sae: str, feature: int | str, value: float) -> Terms:
    """Return the terms that set a feature where the answer comes from, and in the answer."""
    whole = {"sae": sae, "feature": feature, "op": "set", "value": value}
    return (
        SteerTerm.model_validate(whole | {"on": "prompt", "positions": "last_prompt"}),
        SteerTerm.model_validate(whole | {"on": "output"}),
    )


class Editor:
    """Asks questions under edits of one SAE."""

    def __init__(
        self, answerer: FeatureAnswerer, sae: Sae, questions: Questions, seed: int, phase: Phase
    ) -> None:
        self._answerer, self._sae, self._questions = answerer, sae, questions
        self._seed, self._phase = seed, phase

    def screened(
        self, features: Mapping[int, Concept], strengths: Sequence[float] = STRENGTHS
    ) -> list[Candidate]:
        """Try every label's feature at every strength on the choosing questions, best first."""
        tries = [(feature, strength) for feature in features for strength in strengths]
        choosing = self._questions.choosing
        asked = [(choosing, self._terms(*each)) for each in tries]
        plain, *edited = self._hear([(choosing, ()), *asked], "features: choosing")
        tried: dict[int, list[Screened]] = {}
        for (feature, strength), heard in zip(tries, edited, strict=True):
            share = fmean(changed(features[feature], plain, heard))
            tried.setdefault(feature, []).append(Screened(strength=strength, changed=share))
        found = [Candidate(each, features[each], tuple(tried[each])) for each in features]
        return sorted(found, key=lambda each: -each.best.changed)

    def tested(
        self, candidates: Sequence[Candidate], by_lot: Sequence[Sequence[int]]
    ) -> list[EditCard]:
        """Test candidates at their best strengths, each beside its features by lot."""
        testing, draws = self._questions.testing, self._questions.draws
        asked: list[Asked] = [(testing, ())]
        for each, lots in zip(candidates, by_lot, strict=True):
            strength = each.best.strength
            asked.append((testing, self._terms(each.feature, strength)))
            asked += [
                (testing[draw::draws], self._terms(lot, strength))
                for draw, lot in enumerate(lots[:draws])
            ]
        plain, *rest = self._hear(asked, "features: test")
        width = 1 + draws
        return [
            self._card(each, plain, rest[at * width : (at + 1) * width])
            for at, each in enumerate(candidates)
        ]

    def _terms(self, feature: int, strength: float) -> Terms:
        return terms_of(self._sae.name, feature, value_of(self._sae, feature, strength))

    def _hear(self, asked: Sequence[Asked], title: str) -> list[Heard]:
        """Ask questions under terms; all go to the engine together, whatever their steering."""
        asks = [
            Ask(question, terms, ANSWER_TOKENS)
            for questions, terms in asked
            for question in questions
        ]
        answers = iter(self._answerer.answers(asks, self._phase, title))
        return [
            Heard(tuple(questions), tuple(next(answers) for _ in questions))
            for questions, _ in asked
        ]

    def _card(self, candidate: Candidate, plain: Heard, heard: Sequence[Heard]) -> EditCard:
        concept, (edited, *lots) = candidate.concept, heard
        control = Heard(
            tuple(question for each in lots for question in each.questions),
            tuple(answer for each in lots for answer in each.answers),
        )
        said = zip(plain.questions, plain.answers, edited.answers, strict=True)
        return EditCard(
            feature=candidate.feature,
            name=concept.name,
            strength=candidate.best.strength,
            value=value_of(self._sae, candidate.feature, candidate.best.strength),
            tried=candidate.tried,
            bar=bar_of(plain.counts(concept)),
            plain=fmean(plain.counts(concept)),
            reached=fmean(edited.counts(concept)),
            edited=against(concept, plain, edited, self._seed),
            random=against(concept, plain, control, self._seed),
            perplexity_ratio=self._perplexity(plain, edited, f"{concept.name}: perplexity"),
            perplexity_n=min(PERPLEXITY_QUESTIONS, len(edited.answers)),
            examples=tuple(
                Example(question=question, plain=one.text, steered=other.text)
                for question, one, other in list(said)[:EXAMPLES]
            ),
        )

    def _perplexity(self, plain: Heard, edited: Heard, title: str) -> Interval:
        """Return the edited answers' perplexity over the plain ones', under the unedited model."""
        questions = plain.questions[:PERPLEXITY_QUESTIONS]
        count = len(questions)
        answers = (*plain.answers[:count], *edited.answers[:count])
        said = list(zip(questions * 2, answers, strict=True))
        nats_N = np.array(self._answerer.surprise(said, self._phase, title))
        log = mean_interval(nats_N[count:] - nats_N[:count], questions, self._seed)
        return Interval(
            estimate=math.exp(log.estimate), low=math.exp(log.low), high=math.exp(log.high)
        )
