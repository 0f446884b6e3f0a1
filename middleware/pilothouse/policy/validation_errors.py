"""Pydantic's findings about a file, in an operator's words: got, wanted, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from pilothouse.policy.did_you_mean import closest
from pilothouse.policy.source import Location, Problem, Source, problem_at

_WANTED = {
    "string_type": "text: put it in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
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


def validation_errors(
    errors: Iterable[ErrorDetails], model: type[BaseModel], source: Source
) -> list[Problem]:
    """The validation errors of `model`, each at its line, with what to write instead."""
    return [
        problem_at(source, _written(tuple(each["loc"]), source), _text(each, model))
        for each in errors
        if not _follows_from_others(each)
    ]


def _follows_from_others(error: ErrorDetails) -> bool:
    """A list counts as too short when its items are wrong, which is said of the items."""
    return error["type"] == "too_short" and bool(error["input"])


def _written(location: Location, source: Source) -> Location:
    """The location without the parts that pydantic adds for members of a union."""
    written: Location = ()
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if (*written, part) in source.lines or not source.lines or last:
            written = (*written, part)
    return written


def _text(error: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, got = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        return _unknown_field(tuple(error["loc"]), model)
    if kind == "missing":
        return "is missing: add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _action(got, context)
    if kind == "literal_error":
        return f"got {got!r}, want {context['expected']}"
    if kind == "string_pattern_mismatch":
        wanted = _PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
        return f"got {got!r}, want {wanted}"
    if kind in _WANTED:
        return f"got {_shown(got)}, want {_WANTED[kind]}"
    if kind in ("too_short", "string_too_short"):
        return "is empty: fill it, or remove it if it is optional"
    return f"got {_shown(got)}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _shown(got: Any) -> str:
    if isinstance(got, dict | list):
        return "a mapping" if isinstance(got, dict) else "a list"
    text = "nothing" if got is None else repr(got)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _action(got: Any, context: Mapping[str, Any]) -> str:
    if not isinstance(got, dict) or "action" not in got:
        return "has no `action`: add `action: log`, `tag`, `steer`, `respond` or `block`"
    if got["action"] == "judge":
        return (
            "got `action: judge`, but this version has no judge: use `log` to watch, or `block`, "
            "`respond` or `steer` to act"
        )
    return f"got `action: {got['action']}`, want one of {context.get('expected_tags', '')}"


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
