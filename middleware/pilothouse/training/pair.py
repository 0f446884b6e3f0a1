"""Contrastive pairs from a file (JSON lines, or CSV with a head line), and how they are split.

A line has `positive` and `negative`. Alone they are whole texts; with `prompt` (a text) or
`messages` (a conversation, JSON lines only) they are two continuations of it. `group` names what
must not be split; without it lines of the same prompt are one group, and a text pair is its own.
Lines with the fields of a well-known other set get the command that renames them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from pilothouse.artifacts.manifest import Closed
from pilothouse.errors import ConfigError
from pilothouse.training.row_file import rows_of

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question", "instruction", "input", "query", "context"),
    "positive": (
        "answer_matching_behavior",
        "chosen",
        "pos",
        "preferred",
        "good",
        "positive_text",
        "matching",
        "desired",
    ),
    "negative": (
        "answer_not_matching_behavior",
        "rejected",
        "neg",
        "dispreferred",
        "bad",
        "negative_text",
        "not_matching",
        "undesired",
    ),
    "messages": ("conversation", "conversations"),
    "answer": ("expected", "expected_answer", "target", "label", "output", "response"),
    "text": ("sentence", "content", "body", "document"),
}
"""Our field, and what others call it: CAA, preference data, chat data."""
SHOWN_PROBLEMS = 20
Text = Annotated[str, Field(min_length=1)]
T = TypeVar("T", bound=BaseModel)
MIN_GROUPS = 8
FIT_SHARE, CHOOSE_SHARE = 0.5, 0.25


def renamed(path: Path, found: Collection[str], fields: Collection[str]) -> str | None:
    """Return what to say of a file whose lines have another set's fields; None where it is none.

    Args:
        path: the file that is read.
        found: the names that each line has.
        fields: the names that a line may have.
    """
    names: dict[str, str] = {}
    for field in fields:
        known = [each for each in OTHER_NAMES.get(field, ()) if each in found]
        if field not in found and len(known) == 1:
            names[known[0]] = field
    if not names:
        return None
    is_csv = path.suffix.lower() == ".csv"
    # A name ends where it does not go on: `answer` is within `answer_matching_behavior`.
    one = "1s/\\b{}\\b/{}/" if is_csv else r's/"{}" *:/"{}":/'
    command = "; ".join(one.format(other, ours) for other, ours in names.items())
    missing = sorted(set(names.values()))
    return (
        f"{path}: lines have {', '.join(sorted(found))}; missing are {', '.join(missing)}, which "
        f"they call otherwise; rename: sed -i '{command}' {path.name}"
    )


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
        """A text that is the same for the same prompt or conversation; empty without either."""
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
        """The name of the group, which is on one side of a split together."""
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
    """Read the pairs of a file, in their order there.

    Raises:
        ConfigError: unreadable, empty, or a line for each line that is wrong, with its number.
    """
    return _load(path, Pair)


def load_questions(path: Path) -> tuple[Question, ...]:
    """Read questions: `prompt` or `messages`, and `answer`. Raises as `load_pairs`."""
    return _load(path, Question)


def load_texts(path: Path) -> tuple[str, ...]:
    """Read the field `text` of each line. Raises as `load_pairs`."""
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


class Division(NamedTuple):
    """Numbers of pairs. No group is in two parts; what tests was neither fitted nor chosen on."""

    fit: tuple[int, ...]
    choose: tuple[int, ...]
    test: tuple[int, ...]


def divide(pairs: Sequence[Pair], seed: int) -> Division:
    """Cut groups, in an order that hangs on names and seed alone, into half, quarter, quarter.

    Raises:
        ConfigError: fewer than eight groups.
    """
    names = sorted({each.group_name for each in pairs}, key=lambda name: _place(name, seed))
    if len(names) < MIN_GROUPS:
        raise ConfigError(
            f"pairs: got {len(pairs)} in {len(names)} groups, want at least {MIN_GROUPS} groups: "
            "half of them fit, the rest choose and test. Pairs of one prompt are one group: write "
            "pairs with other prompts or, where they can be told apart, name each one's `group`"
        )
    first, second = round(FIT_SHARE * len(names)), round((FIT_SHARE + CHOOSE_SHARE) * len(names))
    parts = (names[:first], names[first:second], names[second:])
    return Division(*(_numbers(pairs, frozenset(part)) for part in parts))


def _numbers(pairs: Sequence[Pair], names: frozenset[str]) -> tuple[int, ...]:
    return tuple(number for number, each in enumerate(pairs) if each.group_name in names)


def _place(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
