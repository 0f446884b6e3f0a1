"""What setting a labelled feature does to answers, counted by the label's own words.

A feature is set to one code at the prompt's last token and in every token of the answer; what that
writes is given as a share of the stream's mean length. On the choosing questions every label's
feature is tried at each strength; those that change most answers are then tested on others, beside
features by lot that are set to codes of the same length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from pilothouse.demo.evaluation import Bench, Heard, Terms, against, changed, pooled
from pilothouse.demo.judges.judge import Judge
from pilothouse.demo.sae.concepts import Concept
from pilothouse.demo.sae.sae_card import EditCard, Screened
from pilothouse.demo.vector_card import Example
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.term import SteerTerm

STRENGTHS: Final = (0.2, 0.3, 0.4)
TESTED: Final = 8
ANSWER_TOKENS: Final = 32
PERPLEXITY_QUESTIONS: Final = 35
EXAMPLES: Final = 3
MARGIN: Final = 1.0


class Candidate(NamedTuple):
    """A label's feature, and how often each strength changed an answer."""

    feature: int
    concept: Concept
    tried: tuple[Screened, ...]

    @property
    def best(self) -> Screened:
        """The strength that changes most; of equals the weakest."""
        return max(self.tried, key=lambda each: (each.changed, -each.strength))


def judge_of(concept: Concept) -> Judge:
    """Return the label's own matcher as a judge of answers."""
    return Judge(
        concept.name, "different words of the label in an answer that does not repeat itself",
        concept.count, MARGIN, ANSWER_TOKENS,
    )  # fmt: skip


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


def screened(
    bench: Bench, sae: Sae, features: Mapping[int, Concept], strengths: Sequence[float] = STRENGTHS
) -> list[Candidate]:
    """Try every label's feature at every strength on the choosing questions, the best first."""
    asked = [
        (feature, concept, strength)
        for feature, concept in features.items()
        for strength in strengths
    ]
    steerings = [
        terms_of(sae.name, feature, value_of(sae, feature, strength))
        for feature, _, strength in asked
    ]
    # Answers hang on no judge, so all are asked for together and judged again one by one.
    any_judge = judge_of(next(iter(features.values())))
    plain, *edited = bench.hear(
        any_judge, [(bench.choosing, each) for each in ((), *steerings)], "features: choosing"
    )
    tried: dict[int, list[Screened]] = {}
    for (feature, concept, strength), heard in zip(asked, edited, strict=True):
        judge = judge_of(concept)
        share = fmean(changed(judge, _again(judge, plain), _again(judge, heard), 1))
        tried.setdefault(feature, []).append(Screened(strength=strength, changed=share))
    found = [Candidate(feature, features[feature], tuple(each)) for feature, each in tried.items()]
    return sorted(found, key=lambda each: -each.best.changed)


def tested(
    bench: Bench, sae: Sae, candidates: Sequence[Candidate], by_lot: Sequence[Sequence[int]]
) -> list[EditCard]:
    """Test candidates at their best strengths, each beside its features by lot."""
    asked: list[tuple[Sequence[str], Terms]] = [(bench.testing, ())]
    for each, lots in zip(candidates, by_lot, strict=True):
        asked += _steerings(bench, sae, each, lots)
    any_judge = judge_of(candidates[0].concept)
    plain, *rest = bench.hear(any_judge, asked, "features: test")
    width = 1 + bench.draws
    return [
        _card(bench, sae, each, plain, rest[at * width : (at + 1) * width])
        for at, each in enumerate(candidates)
    ]


def _steerings(
    bench: Bench, sae: Sae, candidate: Candidate, lots: Sequence[int]
) -> list[tuple[Sequence[str], Terms]]:
    strength = candidate.best.strength
    whole = [(candidate.feature, bench.testing)]
    whole += [
        (lot, bench.testing[draw : bench.controlled : bench.draws])
        for draw, lot in enumerate(lots[: bench.draws])
    ]
    return [
        (questions, terms_of(sae.name, feature, value_of(sae, feature, strength)))
        for feature, questions in whole
    ]


def _card(
    bench: Bench, sae: Sae, candidate: Candidate, plain: Heard, heard: Sequence[Heard]
) -> EditCard:
    judge = judge_of(candidate.concept)
    before = _again(judge, plain)
    edited, *lots = (_again(judge, each) for each in heard)
    strength = candidate.best.strength
    said = zip(before.questions, before.answers, edited.answers, strict=True)
    return EditCard(
        feature=candidate.feature,
        name=candidate.concept.name,
        strength=strength,
        value=value_of(sae, candidate.feature, strength),
        tried=candidate.tried,
        plain=fmean(before.scores),
        reached=fmean(edited.scores),
        edited=against(judge, before, edited, 1, bench.seed),
        random=against(judge, before, pooled(lots), 1, bench.seed),
        perplexity_ratio=bench.perplexity(
            before.first(PERPLEXITY_QUESTIONS), edited.first(PERPLEXITY_QUESTIONS),
            f"{judge.name}: perplexity",
        ),
        perplexity_n=min(PERPLEXITY_QUESTIONS, len(edited.answers)),
        examples=tuple(
            Example(question=question, plain=one.text, steered=other.text)
            for question, one, other in list(said)[:EXAMPLES]
        ),
    )  # fmt: skip


def _again(judge: Judge, heard: Heard) -> Heard:
    """Return the same answers with another judge's numbers."""
    return heard._replace(scores=tuple(judge.score(each.text) for each in heard.answers))
