"""Contrastive pairs from a file: JSON lines, or CSV with a head line.

A line has `positive` and `negative`. Alone they are whole texts; with `prompt` (a text) or
`messages` (a conversation, JSON lines only) they are two continuations of it. `group` names what
must not be split; without it lines of the same prompt are one group, and a text pair is its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from pilothouse.artifacts.manifest import Closed
from pilothouse.errors import ConfigError
from pilothouse.training.renaming import renamed
from pilothouse.training.row_file import rows_of

SHOWN_PROBLEMS = 20
Text = Annotated[str, Field(min_length=1)]
T = TypeVar("T", bound=BaseModel)


class Message(Closed):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Asked(Closed):
    """What is continued: a text, a conversation, or nothing."""

    prompt: Text | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Asked:
        if self.prompt is not None and self.messages is not None:
            raise ValueError("got both prompt and messages, want one of them or neither")
        return self

    @property
    def context(self) -> str:
        """The same text for the same prompt or conversation; empty without either."""
        if self.messages is not None:
            return json.dumps([each.model_dump() for each in self.messages], sort_keys=True)
        return self.prompt or ""


class Pair(Asked):
    """Two texts or continuations that differ in what the vector is to bring about."""

    positive: Text
    negative: Text
    group: Text | None = None

    @model_validator(mode="after")
    def _they_differ(self) -> Pair:
        if self.positive == self.negative:
            raise ValueError("positive and negative are the same text, which shows nothing")
        return self

    @property
    def group_name(self) -> str:
        """What is on one side of a split together."""
        own = json.dumps([self.positive, self.negative])
        return self.group or self.context or own


class Question(Asked):
    """Something the model knows: the answer counts as right that contains `answer`."""

    answer: Text

    @model_validator(mode="after")
    def _asks_something(self) -> Question:
        if not self.context:
            raise ValueError("got neither prompt nor messages, want what is asked")
        return self


class NeutralText(Closed):
    """A text that has nothing to do with what the vector is for."""

    text: Text


def load_pairs(path: Path) -> tuple[Pair, ...]:
    """The pairs of a file, in its options.

    Raises:
        ConfigError: unreadable, empty, or a line for each line that is wrong, with its number.
    """
    return _load(path, Pair)


def load_questions(path: Path) -> tuple[Question, ...]:
    """Questions with `prompt` or `messages`, and `answer`. Raises as `load_pairs`."""
    return _load(path, Question)


def load_texts(path: Path) -> tuple[str, ...]:
    """The field `text` of each line. Raises as `load_pairs`."""
    return tuple(each.text for each in _load(path, NeutralText))


def _load(path: Path, kind: type[T]) -> tuple[T, ...]:
    found: list[T] = []
    problems: list[str] = []
    strange: list[frozenset[str]] = []
    for number, raw in rows_of(path):
        if isinstance(raw, str):
            problems.append(f"{path}: line {number}: {raw}")
            continue
        try:
            found.append(kind.model_validate(raw))
        except ValidationError as error:
            problems += [f"{path}: line {number}: {each}" for each in _told(error)]
            strange.append(frozenset(raw))
    if strange and not found and len(set(strange)) == 1:
        renaming = renamed(path, strange[0], kind.model_fields.keys())
        if renaming is not None:
            raise ConfigError(renaming)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        tail = [f"{path}: and {more} more"] if more > 0 else []
        raise ConfigError("\n".join([*problems[:SHOWN_PROBLEMS], *tail]))
    if not found:
        raise ConfigError(f"{path}: got no lines, want one for each {kind.__name__.lower()}")
    return tuple(found)


def _told(error: ValidationError) -> list[str]:
    return [
        ": ".join([*(str(part) for part in each["loc"]), each["msg"]])
        for each in error.errors(include_url=False)
    ]
