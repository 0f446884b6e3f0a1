"""Problems of a file in an operator's words: file and line, field, got, wanted, what to do.

pilothouse.yaml, policies and their cases all go through here, so an error reads the same
whichever file it is in.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from pilothouse.errors import ConfigError

Location = tuple[str | int, ...]
Severity = Literal["error", "warning", "note"]
Explain = Callable[[ErrorDetails], str | None]
"""What a file's own rules say to an error of pydantic; None where there is nothing special."""

_WANTED = {
    "string_type": "text: put it in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "path_type": "a path",
    "tuple_type": "a list: write [a, b]",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_PATTERNS = {
    r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$": "kebab-case, as in `no-misuse`",
    r"^[a-z][a-z0-9_]*$": "snake_case, as in `doubt_now`",
    r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$": "a name of letters, digits, `_`, `.` and `-`",
}


@dataclass(frozen=True)
class Source:
    """A file and the line of each field in it. Two sources are equal: place is not meaning."""

    file: str = field(default="", compare=False)
    lines: Mapping[Location, int] = field(default_factory=dict, compare=False)

    def line_of(self, location: Location) -> int:
        """Return the 1-based line of the deepest known part of `location`; 0 without lines.

        Parts the file does not have (a missing field, the tag of a union) are skipped.
        """
        known: Location = ()
        for part in location:
            if (*known, part) in self.lines:
                known = (*known, part)
        return self.lines.get(known, 0)


@dataclass(frozen=True, order=True)
class Problem:
    """One thing to say about one place; an `error` keeps the file from being used."""

    file: str
    line: int
    field: str
    text: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: {self.text}" if self.field else f"{place}: {self.text}"


class FileError(ConfigError):
    """Files that cannot be used; the text has one line per problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(each) for each in self.problems))


def problem_at(
    source: Source, location: Location, text: str, severity: Severity = "error"
) -> Problem:
    """Return a problem at a field, with the line the source knows for it."""
    line = source.line_of(location)
    return Problem(source.file or "policy", line, field_path(location), text, severity)


def field_path(location: Location) -> str:
    """Return `spec.rules[0].when`, as an operator would write it."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def closest(word: str, known: Iterable[str]) -> str:
    """Return what is known, beginning with a guess at what was meant by an unknown word."""
    names = sorted(known)
    guess = difflib.get_close_matches(word, names, n=1)
    meant = f"did you mean `{guess[0]}`? " if guess else ""
    return f"{meant}known here: {', '.join(names) or 'none'}"


def validation_errors(
    errors: Iterable[ErrorDetails],
    model: type[BaseModel],
    source: Source,
    explain: Explain = lambda _: None,
) -> list[Problem]:
    """Return the validation errors of `model`, each at its line, with what to write instead.

    Args:
        errors: what pydantic found.
        model: what the data was validated as; its fields are named where one is unknown.
        source: where the data was read from.
        explain: words of the file's own for some errors.
    """
    problems = [
        problem_at(source, _written(each, source), explain(each) or _text(each, model))
        for each in errors
        if not _follows_from_others(each)
    ]
    return list(dict.fromkeys(problems))


def _follows_from_others(error: ErrorDetails) -> bool:
    """A list counts as too short when its items are wrong, which is said of the items."""
    return error["type"] == "too_short" and bool(error["input"])


def _written(error: ErrorDetails, source: Source) -> Location:
    """Where the error stands, without the parts that pydantic adds for members of a union."""
    location: Location = tuple(error["loc"])
    names_a_field = error["type"] in ("missing", "extra_forbidden")
    written: Location = ()
    for index, part in enumerate(location):
        is_named = names_a_field and index == len(location) - 1
        if (*written, part) in source.lines or not source.lines or is_named:
            written = (*written, part)
    return written


def _text(error: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, got = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        return _unknown_field(tuple(error["loc"]), model)
    if kind == "missing":
        return "is missing: add it"
    if kind == "literal_error":
        return f"got {got!r}, want {context['expected']}"
    if kind == "string_pattern_mismatch":
        wanted = _PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
        return f"got {got!r}, want {wanted}"
    if kind == "value_error":
        return str(context["error"])
    if kind in _WANTED:
        return f"got {shown(got)}, want {_WANTED[kind]}"
    if kind in ("too_short", "string_too_short"):
        return "is empty: fill it, or remove it if it is optional"
    return f"got {shown(got)}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def shown(got: Any) -> str:
    """Return a value from a file as an error quotes it, on one line and not too long."""
    if isinstance(got, dict | list):
        return "a mapping" if isinstance(got, dict) else "a list"
    text = "nothing" if got is None else repr(got)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _unknown_field(location: Location, model: type[BaseModel]) -> str:
    fields = _fields_at(location[:-1], model)
    return f"unknown field; {closest(str(location[-1]), fields)}: rename or remove it"


def _fields_at(location: Location, model: type[BaseModel]) -> list[str]:
    """The fields of the model that a location leads to."""
    here: Any = model
    for part in location:
        here = _inside(here, part)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _inside(here: Any, part: str | int) -> Any:
    if isinstance(here, type) and issubclass(here, BaseModel):
        for name, field in here.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return here
    members = [each for each in get_args(here) if each is not type(None)]
    models = [each for each in members if isinstance(each, type) and issubclass(each, BaseModel)]
    tagged = [each for each in models if part in _tags(each)]
    if tagged:
        return tagged[0]
    if len(models) == 1 and len(members) <= 2:
        inner = models[0]
        return inner if isinstance(part, int) or _is_container(here) else _inside(inner, part)
    return next((_inside(each, part) for each in members if get_args(each)), here)


def _is_container(here: Any) -> bool:
    return getattr(here, "__origin__", None) in (tuple, list, dict)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("action")
    return get_args(field.annotation) if field is not None else ()
