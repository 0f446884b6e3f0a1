"""Which strength a vector gets: tried on the choosing questions, by the judge and by fluency."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final

from pilothouse.demo.evaluation import Bench, Heard, changed
from pilothouse.demo.poles import Pole, Subject, terms_of
from pilothouse.demo.vector_card import Tried

ENOUGH: Final = 0.75
"""Share changed at which a strength is strong enough: a little over what is aimed at."""
MAX_MORE_DEGENERATE: Final = 0.1
PERPLEXITY_QUESTIONS: Final = 15


def tried(bench: Bench, subject: Subject, pole: Pole, plain: Heard) -> tuple[Tried, ...]:
    """Return every strength's figures; perplexity of those that do not repeat themselves."""
    judge = subject.judged_by
    steerings = [
        (bench.choosing, terms_of(subject.name, pole.sign * each, subject.where))
        for each in subject.strengths
    ]
    found = []
    for strength, steered in zip(
        subject.strengths, bench.hear(judge, steerings, f"{pole.name}: strengths"), strict=True
    ):
        ratio = None
        if steered.degenerate <= plain.degenerate + MAX_MORE_DEGENERATE:
            ratio = bench.perplexity(
                plain.first(PERPLEXITY_QUESTIONS), steered.first(PERPLEXITY_QUESTIONS),
                f"{pole.name}: fluency",
            ).estimate  # fmt: skip
        found.append(
            Tried(
                strength=strength,
                changed=fmean(changed(judge, plain, steered, pole.sign)),
                degenerate=steered.degenerate,
                perplexity_ratio=ratio,
            )
        )
    return tuple(found)


def chosen(each_tried: Sequence[Tried], max_perplexity_ratio: float) -> tuple[float, str]:
    """Return the weakest strength that changes enough, or else the one that changes most.

    Only strengths within the bounds on repeating and perplexity come into question. Where none
    does, it is the weakest of all, and the second value says so.
    """
    fluent = [
        each
        for each in each_tried
        if each.perplexity_ratio is not None and each.perplexity_ratio <= max_perplexity_ratio
    ]
    if not fluent:
        return min(each.strength for each in each_tried), "no strength that was tried stays fluent"
    enough = [each for each in fluent if each.changed >= ENOUGH]
    if enough:
        return min(each.strength for each in enough), ""
    return max(fluent, key=lambda each: (each.changed, -each.strength)).strength, ""
