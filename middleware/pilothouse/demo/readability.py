"""How readable answers in a language are, as far as the unsteered model can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pilothouse.artifacts.manifest import Interval
from pilothouse.demo.answers import Answer
from pilothouse.demo.evaluation import Bench, Heard
from pilothouse.demo.poles import Pole
from pilothouse.demo.vector_card import Readable
from pilothouse.training.measure import mean_interval
from pilothouse.training.pair import Pair

ANSWERS: Final = 30


def readable(
    bench: Bench, pairs: Sequence[Pair], pole: Pole, own: Heard, steered: Heard
) -> Readable:
    """Return how surprising answers are to the unsteered model that is asked for the language.

    Args:
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
    """Mean surprise with its interval; answers without a token are left out."""
    spoken = [each for each in said if each[1].ids]
    nats_N = np.array(bench.answerer.surprise(spoken, bench.phase, title))
    return mean_interval(nats_N, [question for question, _ in spoken], bench.seed)
