"""Labelled texts from a file: JSON lines, or CSV with a head line.

A row has `label`, and `text` (what a user writes) or `messages` (a conversation). With `answer`, or
a conversation that ends in the assistant's turn, it is the answer that is labelled. `group` names
what must not be split, `source` where a row is from.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from pilothouse.errors import ConfigError
from pilothouse.probes.baseline import BEHIND
from pilothouse.probes.report import Form
from pilothouse.probes.text_form import alike, in_form
from pilothouse.training.pair import SHOWN_PROBLEMS, Message
from pilothouse.training.row_file import rows_of

FIELDS = ("text", "messages", "answer", "label", "group", "source")
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": (
        "prompt",
        "question",
        "instruction",
        "goal",
        "behavior",
        "forbidden_prompt",
        "user_input",
        "input",
        "query",
        "content",
        "sentence",
    ),
    "messages": ("conversation", "conversations"),
    "answer": ("response", "completion", "output", "model_answer"),
    "label": ("labels", "class", "target", "is_harmful", "toxicity", "jailbreaking", "is_safe"),
    "group": ("id", "question_id", "prompt_id", "behaviorid", "template", "family"),
    "source": ("dataset", "origin"),
}
"""Our field, and what well-known sets call it."""
YES, NO = frozenset({"1", "true", "yes", "positive"}), frozenset({"0", "false", "no", "negative"})
SHOWN_VALUES = 12
PARQUET = b"PAR1"
FROM_PARQUET = (
    'python -c "import pandas,sys; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], '
    "orient='records', lines=True)\" {} {}"
)
MESSAGES = TypeAdapter(tuple[Message, ...])


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A conversation, or one and its answer, with a label.

    Attributes:
        turns: up to where the assistant's turn opens.
        answer: what is labelled; where there is none, the conversation is.
        line: of the file.
    """

    turns: tuple[Message, ...]
    answer: str | None
    label: bool
    group: str
    source: str
    line: int

    def said(self, form: Form) -> str:
        """What a text baseline reads: the turns, and behind a mark the answer."""
        asked = "\n".join(in_form(each.content, form) for each in self.turns)
        return asked if self.answer is None else f"{asked}{BEHIND}{in_form(self.answer, form)}"

    def in_form(self, form: Form) -> LabelledText:
        """The same with what the user and the assistant wrote in a form."""
        turns = tuple(
            each.model_copy(update={"content": in_form(each.content, form)})
            if each.role in ("user", "assistant")
            else each
            for each in self.turns
        )
        answer = None if self.answer is None else in_form(self.answer, form)
        return replace(self, turns=turns, answer=answer)


class LabelledFile(NamedTuple):
    """The rows of a file, each text once, and what its reader should know."""

    path: Path
    sha256: str
    rows: tuple[LabelledText, ...]
    repeated: int
    notes: tuple[str, ...]

    @property
    def has_answers(self) -> bool:
        """Whether answers are labelled; either all of them are or none."""
        return self.rows[0].answer is not None


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read.

    Attributes:
        columns: our field -> the file's name of it, where it has another.
        positive: values of `label` that mean a positive; empty for the usual words.
        negative: values that mean a negative; empty with `positive` for all others.
    """

    columns: tuple[tuple[str, str], ...] = ()
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse fields that there are not.

        Raises:
            ConfigError: an unknown field, or a value that means both.
        """
        unknown = [field for field, _ in self.columns if field not in FIELDS]
        if unknown:
            raise ConfigError(
                where="column", got=f"{unknown[0]}=...", want=f"one of {', '.join(FIELDS)} before ="
            )
        both = {*map(canonical, self.positive)} & {*map(canonical, self.negative)}
        if both:
            raise ConfigError(
                where="positive, negative", got=f"{min(both)!r} in both", want="it in one of them"
            )
        if self.negative and not self.positive:
            raise ConfigError(
                where="negative", got=list(self.negative), want="values of `positive` too"
            )


def load_labelled(path: Path, reading: Reading) -> LabelledFile:
    """The rows of a file.

    Raises:
        ConfigError: unreadable, empty, rows that are wrong (a line for each, with its number), or
            one text under both labels.
    """
    reading.check()
    data = _bytes(path)
    names = {**dict.fromkeys(FIELDS, ""), **dict(reading.columns)}
    columns = {field: (name or field).lower() for field, name in names.items()}
    numbered = [
        (number, {key.lower(): value for key, value in raw.items()} if type(raw) is dict else raw)
        for number, raw in rows_of(path)
    ]
    if not numbered:
        raise ConfigError(
            where=path,
            got="no rows",
            want="one for each labelled text",
            fix="is it the right file?",
        )
    _check_columns(path, numbered, columns, reading)
    found: list[LabelledText] = []
    problems: list[str] = []
    values: Counter[tuple[str, bool]] = Counter()
    for number, raw in numbered:
        try:
            if isinstance(raw, str):
                raise ConfigError(raw)
            found.append(_row(raw, columns, reading, number, path.name))
            values[canonical(raw[columns["label"]]), found[-1].label] += 1
        except ConfigError as error:
            problems.append(f"{path}: line {number}: {error}")
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        tail = [f"{path}: and {more} more"] if more > 0 else []
        raise ConfigError("\n".join([*problems[:SHOWN_PROBLEMS], *tail]))
    _check_answers(path, found)
    kept, notes = _once(path, found)
    there = {name for _, raw in numbered for name in raw}
    read = [f"{field} from {name!r}" for field, name in columns.items() if name in there]
    unread = [repr(each) for each in sorted(there - {*columns.values()})]
    notes = [
        f"{path}: read {', '.join(read)}" + (f"; not read: {', '.join(unread)}" if unread else ""),
        f"{path}: {_told(values, True)} positive, {_told(values, False)} negative",
        *notes,
    ]
    return LabelledFile(
        path,
        hashlib.sha256(data).hexdigest(),
        _joined(kept),
        len(found) - len(kept),
        tuple(notes),
    )


def canonical(value: object) -> str:
    """A value of a label as the one text that all its spellings have."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            where=path, got=error.strerror, want="a file of labelled texts", fix="name one"
        ) from error
    if data.startswith(PARQUET):
        made = path.with_suffix(".jsonl").name
        raise ConfigError(
            where=path,
            got="Parquet",
            want="JSON lines or CSV",
            fix=f"turn it into one: {FROM_PARQUET.format(path.name, made)}",
        )
    return data


def _check_columns(
    path: Path, numbered: Sequence[tuple[int, Any]], columns: Mapping[str, str], reading: Reading
) -> None:
    """Refuse a file of which no row can be read, with the line that names its columns."""
    there = {name for _, raw in numbered if isinstance(raw, dict) for name in raw}
    if not there:
        return
    gone = [name for _, name in reading.columns if name.lower() not in there]
    if gone:
        raise ConfigError(
            where=f"{path}: column {gone[0]!r}",
            got=f"columns {', '.join(sorted(there))}",
            want="one of them",
        )
    wanted = [] if {columns["text"], columns["messages"]} & there else ["text"]
    wanted += [] if columns["label"] in there else ["label"]
    if wanted:
        flags = " ".join(f"--column {each}={_guess(each, there)}" for each in wanted)
        raise ConfigError(
            where=path,
            got=f"columns {', '.join(sorted(there))}",
            want="text or messages, and label",
            fix=f"say which they are: {flags}",
        )


def _guess(field: str, there: set[str]) -> str:
    return next((each for each in OTHER_NAMES[field] if each in there), "NAME")


def _row(
    raw: Mapping[str, Any], columns: Mapping[str, str], reading: Reading, number: int, source: str
) -> LabelledText:
    given = {field: raw[name] for field, name in columns.items() if raw.get(name) is not None}
    if ("text" in given) == ("messages" in given):
        raise ConfigError(
            where="text, messages",
            got="both" if "text" in given else "neither",
            want="one of them",
            fix="fill it in, or take the row out",
        )
    if "text" in given:
        turns: tuple[Message, ...] = (Message(role="user", content=_text("text", given)),)
    else:
        turns = _messages(given["messages"])
    answer = _text("answer", given) if "answer" in given else None
    if turns[-1].role == "assistant":
        if answer is not None:
            raise ConfigError(
                where="answer", got="one behind an assistant's turn", want="one of both"
            )
        *before, last = turns
        turns, answer = tuple(before), last.content
    if not turns or answer == "":
        raise ConfigError(where="messages", got="nothing asked", want="a user's turn and an answer")
    label = _label(given, reading)
    own = json.dumps([each.model_dump() for each in turns]) if len(turns) > 1 else turns[0].content
    return LabelledText(
        turns=turns,
        answer=answer,
        label=label,
        group=_text("group", given) if "group" in given else alike(own),
        source=" ".join(_text("source", given).split()) if "source" in given else source,
        line=number,
    )


def _text(field: str, given: Mapping[str, Any]) -> str:
    value = given[field]
    if field in ("group", "source") and type(value) in (int, float):
        value = str(value)
    if not isinstance(value, str):
        raise ConfigError(where=field, got=f"{value!r:.60}", want="text")
    if not value.strip():
        raise ConfigError(
            where=field, got=repr(value), want="text that is not blank", fix="take the row out"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            where=field, got=f"half a character ({value[error.start]!r})", want="Unicode text"
        ) from error
    return value


def _messages(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):  # a cell of CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                where="messages", got=f"{value!r:.60}", want="a JSON list of messages"
            ) from error
    try:
        turns = MESSAGES.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(["messages", *map(str, first["loc"])])
        raise ConfigError(f"{place}: {first['msg']}") from error
    if not turns:
        raise ConfigError(where="messages", got="an empty list", want="a conversation")
    for each in turns:
        _text(f"messages: {each.role}", {f"messages: {each.role}": each.content})
    return turns


def _label(given: Mapping[str, Any], reading: Reading) -> bool:
    value = given.get("label")
    if value is None:
        raise ConfigError(
            where="label", got="none", want="a value", fix="label the row, or take it out"
        )
    shown = canonical(value)
    positive = frozenset(map(canonical, reading.positive)) or YES
    negative = frozenset(map(canonical, reading.negative)) or (NO if not reading.positive else None)
    if shown in positive:
        return True
    if negative is None or shown in negative:
        return False
    known = "true, yes, 1, positive or false, no, 0, negative"
    raise ConfigError(
        where="label",
        got=f"{value!r:.60}",
        want=known if not reading.positive else f"one of {sorted(positive | negative)}",
        fix="say what means a positive: --positive VALUE"
        if not reading.positive
        else "add it to --positive or --negative",
    )


def _check_answers(path: Path, rows: Sequence[LabelledText]) -> None:
    with_answer = sum(each.answer is not None for each in rows)
    if 0 < with_answer < len(rows):
        odd = next(each for each in rows if (each.answer is None) == (with_answer * 2 > len(rows)))
        raise ConfigError(
            where=f"{path}: line {odd.line}",
            got=f"{with_answer} rows with an answer and {len(rows) - with_answer} without",
            want="all or none: a probe reads either prompts or answers",
            fix="fit two probes, from two files",
        )


def _once(path: Path, rows: Sequence[LabelledText]) -> tuple[list[LabelledText], list[str]]:
    """Each text once; texts under both labels end it.

    Raises:
        ConfigError: names the lines.
    """
    seen: dict[tuple[object, ...], LabelledText] = {}
    spelled: dict[tuple[object, ...], LabelledText] = {}
    problems, alike_rows = [], []
    for each in rows:
        key = (*((turn.role, turn.content) for turn in each.turns), each.answer)
        first = seen.setdefault(key, each)
        if first.label != each.label:
            problems.append(f"lines {first.line} and {each.line}")
        plain = each.in_form("alike")
        loose = (*((turn.role, turn.content) for turn in plain.turns), plain.answer)
        other = spelled.setdefault(loose, each)
        if other.label != each.label and first is each:
            alike_rows.append(f"{other.line} and {each.line}")
    if problems:
        raise ConfigError(
            where=path,
            got=f"{len(problems)} texts under both labels ({'; '.join(problems[:5])})",
            want="one label for each text",
            fix="settle which it is, or take them out",
        )
    notes = []
    if len(seen) < len(rows):
        notes.append(f"{path}: {len(rows) - len(seen)} rows say what another says: used once each")
    if alike_rows:
        notes.append(
            f"{path}: {len(alike_rows)} texts have another label than one that differs in case or "
            f"final punctuation alone (lines {'; '.join(alike_rows[:5])})"
        )
    return list(seen.values()), notes


def _joined(rows: Sequence[LabelledText]) -> tuple[LabelledText, ...]:
    """The rows with groups made one that have a text in common but for case and punctuation."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    first_of: dict[str, str] = {}
    for each in rows:
        text = each.said("alike")
        parent[root(each.group)] = root(first_of.setdefault(text, each.group))
    return tuple(replace(each, group=root(each.group)) for each in rows)


def _told(values: Mapping[tuple[str, bool], int], label: bool) -> str:
    of_label = [(value, count) for (value, each), count in values.items() if each is label]
    shown = [f"{value!r:.40} ({count})" for value, count in of_label[:SHOWN_VALUES]]
    more = len(of_label) - len(shown)
    return ", ".join([*shown, *([f"and {more} other values"] if more else [])]) or "nothing is"


def classes_of(rows: Sequence[LabelledText]) -> Iterator[tuple[bool, int]]:
    """How many groups have a row of each label."""
    for label in (True, False):
        yield label, len({each.group for each in rows if each.label is label})
