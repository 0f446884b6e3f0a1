"""What `pilothouse vector fit` was asked for, and the texts that it needs, read and divided.

Shape suffixes: none; everything here is plain data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pilothouse.cli.fit_stand import Stand
from pilothouse.contrast.division import divide
from pilothouse.contrast.line import Line
from pilothouse.contrast.pair import Pair, load_pairs, load_questions, load_texts
from pilothouse.errors import ConfigError
from pilothouse.types import Clause, Site

Token = Literal["mean", "last", "first"]


@dataclass(frozen=True, slots=True)
class FitOrder:
    """Every option; two equal orders on equal files give equal vectors."""

    pairs: Path
    model: str
    model_id: str
    name: str
    method: str
    layers: tuple[int, ...] | None
    site: Site
    token: Token
    on: Clause
    scales: tuple[float, ...]
    controls: int
    resamples: int
    max_perplexity_ratio: float
    seed: int
    neutral: Path | None
    facts: Path | None
    answer_tokens: int
    features: int
    tuned: str | None
    settings: dict[str, Any]


class Asking(NamedTuple):
    """A question as token ids, and what its answer must hold."""

    ids: tuple[int, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of the pairs is measured on."""

    groups: tuple[str, ...]
    positives: tuple[Line, ...]
    negatives: tuple[Line, ...]
    neutral: tuple[Line, ...]
    questions: tuple[Asking, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """All texts as the model's tokens, divided."""

    fit: Part
    choose: Part
    test: Part
    neutral: str
    """What the neutral texts are, in words."""
    sha256: dict[str, str]


class Files(NamedTuple):
    """What was read before an engine is started."""

    pairs: tuple[Pair, ...]
    texts: tuple[str, ...]
    questions: tuple[Any, ...]


def read_files(order: FitOrder) -> Files:
    """The files of an order.

    Raises:
        ConfigError: a line for everything that is wrong in them.
    """
    pairs = load_pairs(order.pairs)
    divide(pairs, order.seed)
    texts = load_texts(order.neutral) if order.neutral else ()
    return Files(pairs, texts, load_questions(order.facts) if order.facts else ())


def material(order: FitOrder, files: Files, stand: Stand) -> Material:
    """The files' texts as tokens of the engine's model; without neutral texts, its own answers.

    Raises:
        ConfigError: a text that the model cannot take.
    """
    contexts = [stand.context(each) for each in files.pairs]
    positives = _lines(stand, contexts, files.pairs, "positive", order.pairs)
    negatives = _lines(stand, contexts, files.pairs, "negative", order.pairs)
    if order.on == "output" and max(len(line.ids) - line.start for line in positives) < 2:
        raise ConfigError(
            "--on output: every positive is one token long, which no edit at output positions can "
            "reach; give --on all"
        )
    division = divide(files.pairs, order.seed)
    asked = [Asking(stand.context(each), each.answer) for each in files.questions]
    parts = []
    for which, numbers in enumerate(division):
        given = _share(files.texts, which)
        neutral = [stand.line((), text) for text in given]
        if not files.texts and which > 0:
            held = [contexts[n] for n in numbers], [negatives[n] for n in numbers]
            neutral = _own_answers(stand, *held, order.answer_tokens)
        parts.append(
            Part(
                groups=tuple(files.pairs[n].group_name for n in numbers),
                positives=tuple(positives[n] for n in numbers),
                negatives=tuple(negatives[n] for n in numbers),
                neutral=tuple(neutral),
                questions=tuple(_share(asked, which)),
            )
        )
    said = "the given texts" if files.texts else "the model's own greedy answers"
    fit, choose, test = parts
    return Material(fit, choose, test, said, _digests(order))


def _lines(
    stand: Stand, contexts: Sequence[tuple[int, ...]], pairs: Sequence[Pair], side: str, place: Path
) -> list[Line]:
    found = []
    for number, (context, pair) in enumerate(zip(contexts, pairs, strict=True), 1):
        try:
            found.append(stand.line(context, getattr(pair, side)))
        except ConfigError as error:
            raise ConfigError(f"{place}: pair {number}: {side}: {error}") from error
    return found


def _own_answers(
    stand: Stand, contexts: Sequence[tuple[int, ...]], negatives: Sequence[Line], max_tokens: int
) -> list[Line]:
    """What the unsteered model goes on with; a text without a prompt is cut in half for one."""
    asked = [
        context or line.ids[: max(1, len(line.ids) // 2)]
        for context, line in zip(contexts, negatives, strict=True)
    ]
    once = list(dict.fromkeys(asked))
    answers = stand.answers(once, [None] * len(once), max_tokens)
    return [Line((*ids, *said), len(ids)) for ids, said in zip(once, answers, strict=True)]


def _share(given: Sequence[Any], which: int) -> list[Any]:
    """Every other one chooses and the rest tests; a single one does both. None is fitted on."""
    if which == 0:
        return []
    return list(given) if len(given) < 2 else list(given[which - 1 :: 2])


def _digests(order: FitOrder) -> dict[str, str]:
    files = {"pairs": order.pairs, "neutral": order.neutral, "facts": order.facts}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if path is not None
    }
