"""What a fit was asked for, and the texts that it needs, read and divided."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pilothouse.errors import ConfigError, argument
from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.pair import Pair, divide, load_pairs, load_questions, load_texts
from pilothouse.training.scored_text import ScoredText
from pilothouse.training.stages import Tell
from pilothouse.training.tokenized import Texts, read_texts
from pilothouse.types import Clause, Site

Token = Literal["mean", "last", "first"]
SearchKind = Literal["staged", "full"]


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Every option. Equal options on equal files give equal vectors."""

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
    chat_template_kwargs: dict[str, Any]
    search: SearchKind
    finer: bool
    """Whether a staged search may try strengths between those of `scales`."""


class Asking(NamedTuple):
    """A question as token ids, and what its answer must hold."""

    ids: tuple[int, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of the pairs is measured on."""

    groups: tuple[str, ...]
    positives: tuple[ScoredText, ...]
    negatives: tuple[ScoredText, ...]
    neutral: tuple[ScoredText, ...]
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
    notes: tuple[str, ...]


class Files(NamedTuple):
    """What was read before an engine is started."""

    pairs: tuple[Pair, ...]
    texts: tuple[str, ...]
    questions: tuple[Any, ...]


def read_files(options: FitOptions) -> Files:
    """Return the files that were named, read.

    Raises:
        ConfigError: a line for everything that is wrong in them.
    """
    pairs = load_pairs(options.pairs)
    divide(pairs, options.seed)
    texts = load_texts(options.neutral) if options.neutral else ()
    return Files(pairs, texts, load_questions(options.facts) if options.facts else ())


def material(
    options: FitOptions, files: Files, texts: Texts, engine: FitEngine, tell: Tell
) -> Material:
    """Divide the texts; where no neutral ones are given, the model's own answers are taken."""
    engine.check_length(texts.longest)
    fit, *others = divided(options, files, texts)
    if not files.texts:
        numbers = divide(files.pairs, options.seed)[1:]
        asked = [_asked(texts, each) for each in numbers]
        answers = _own_answers(engine, asked, options.answer_tokens, tell)
        others = [
            replace(part, neutral=tuple(answers[each] for each in dict.fromkeys(mine)))
            for part, mine in zip(others, asked, strict=True)
        ]
    said = "the given texts" if files.texts else "the model's own greedy answers"
    choose, test = others
    return Material(fit, choose, test, said, _digests(options), texts.notes)


def divided(options: FitOptions, files: Files, texts: Texts) -> list[Part]:
    """Divide the texts into those that fit, choose and test, as far as files have them."""
    asked = [
        Asking(ids, each.answer) for ids, each in zip(texts.questions, files.questions, strict=True)
    ]
    return [
        Part(
            groups=tuple(files.pairs[n].group_name for n in numbers),
            positives=tuple(texts.positives[n] for n in numbers),
            negatives=tuple(texts.negatives[n] for n in numbers),
            neutral=tuple(_share(texts.neutral, which, chooses=True)),
            # A staged search does not ask them, so that all of them can test.
            questions=tuple(_share(asked, which, chooses=options.search == "full")),
        )
        for which, numbers in enumerate(divide(files.pairs, options.seed))
    ]


def tokenized(options: FitOptions, files: Files) -> Texts:
    """Return the files' texts as the model's tokens, before an engine starts.

    Raises:
        ConfigError: texts that the model cannot take, or that no edit can reach; or a tuned form
            of the model that makes other tokens of them.
    """
    texts = read_texts(options, files, options.model)
    if options.on == "output" and max(len(line.ids) - line.start for line in texts.positives) < 2:
        raise ConfigError(
            f"{options.pairs}: every positive is one token long, and {argument('on', 'output')} "
            "leaves the first token of an answer as it is: write longer continuations, or give "
            f"{argument('on', 'all')}"
        )
    if options.tuned is not None:
        others = read_texts(options, files, options.tuned)
        if others._replace(notes=()) != texts._replace(notes=()):
            raise ConfigError(
                f"{argument('tuned')}: makes other tokens of the pairs: its tokenizer is another"
            )
    return texts


def _asked(texts: Texts, numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """Return what pairs continue; a text without a prompt is cut in half for one."""
    return [
        texts.contexts[n] or line.ids[: max(1, len(line.ids) // 2)]
        for n in numbers
        for line in [texts.negatives[n]]
    ]


def _own_answers(
    engine: FitEngine, asked: Sequence[Sequence[tuple[int, ...]]], max_tokens: int, tell: Tell
) -> dict[tuple[int, ...], ScoredText]:
    """Return what the unsteered model goes on with, of all parts at once."""
    once = list(dict.fromkeys(ids for part in asked for ids in part))
    answers = engine.answers(once, [None] * len(once), max_tokens, tell(len(once)))
    return {
        ids: ScoredText((*ids, *said), len(ids)) for ids, said in zip(once, answers, strict=True)
    }


def _share(given: Sequence[Any], which: int, *, chooses: bool) -> list[Any]:
    """Return every other one to choose by and the rest to test by; a single one does both."""
    if which == 0 or (which == 1 and not chooses):
        return []
    if not chooses:
        return list(given)
    return list(given) if len(given) < 2 else list(given[which - 1 :: 2])


def _digests(options: FitOptions) -> dict[str, str]:
    files = {"pairs": options.pairs, "neutral": options.neutral, "facts": options.facts}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if path is not None
    }
