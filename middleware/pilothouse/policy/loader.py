"""Policies from files. Every error names file and line, and all of a file's errors come at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pilothouse.errors import PolicyError
from pilothouse.policy.check import policy_problems
from pilothouse.policy.discovery import find_policies
from pilothouse.policy.schema import Policy
from pilothouse.validation_errors import (
    FileError,
    Problem,
    Source,
    problem_at,
    validation_errors,
)
from pilothouse.yaml_document import parse_document, read_document

MAX_POLICIES = 100

Model = TypeVar("Model", bound=BaseModel)


class PolicyFileError(FileError, PolicyError):
    """Policies or cases that cannot be used; the text has one line per problem."""


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise all errors at once, one a line, in the order of the file.

    Raises:
        PolicyFileError: there is at least one error.
    """
    errors = sorted(each for each in problems if each.severity == "error")
    if errors:
        raise PolicyFileError(errors)


def load_policies(paths: Iterable[Path]) -> tuple[Policy, ...]:
    """Load the policies under some paths, in the order of the paths, then of the folders' names.

    Args:
        paths: each a policy file, a policy folder, or a folder with policy folders below.

    Raises:
        PolicyError: a path without a policy, what would be passed over below one, a file that
            cannot be used, or one name twice.
    """
    policies = tuple(load_policy(file) for file in policy_files(*paths))
    if len(policies) > MAX_POLICIES:
        raise PolicyError(f"got {len(policies)} policies, want at most {MAX_POLICIES}: merge some")
    return _distinct(policies)


def load_policy(path: Path) -> Policy:
    """Load the policy in one file.

    Raises:
        PolicyError: one line per error, each `file:line: field: got, want, what to do`.
    """
    policy, source = read_model(Policy, path)
    return _checked(policy.placed(source))


def parse_policy(text: str, file: str = "policy.yaml") -> Policy:
    """Parse a policy from YAML text, as `load_policy` does; `file` is what errors name."""
    try:
        data, source = parse_document(text, file)
    except FileError as error:
        raise PolicyFileError(error.problems) from error
    return _checked(parse_model(Policy, data, source).placed(source))


def policy_files(*paths: Path) -> tuple[Path, ...]:
    """Return the policy files that paths stand for.

    Raises:
        PolicyError: a path does not exist, there is no policy below it, or something below it
            would be passed over.
    """
    found = find_policies(paths)
    raise_problems(found.problems)
    return tuple(found.files)


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """Return the policy as JSON data with the file format's names, without its source."""
    return policy.model_dump(mode="json", by_alias=True, exclude_none=True)


def policy_from_json(data: dict[str, Any]) -> Policy:
    """Make a policy from what `policy_to_json` returned.

    Raises:
        PolicyError: the data is not a usable policy.
    """
    return _checked(parse_model(Policy, data, Source()))


def read_model(model: type[Model], path: Path) -> tuple[Model, Source]:
    """Read a YAML file as a closed model, and where each of its fields stands.

    Raises:
        PolicyError: one line per error, each with file, line, field and remedy.
    """
    try:
        data, source = read_document(path)
    except FileError as error:
        raise PolicyFileError(error.problems) from error
    return parse_model(model, data, source), source


def parse_model(model: type[Model], data: dict[str, Any], source: Source) -> Model:
    """Validate plain data as a closed model; text is no number and 1 is no truth value.

    Raises:
        PolicyError: one line per error, each with file, line, field and remedy.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise_problems(validation_errors(error.errors(), model, source, _about_actions))
        raise


def _about_actions(error: ErrorDetails) -> str | None:
    """Say which actions there are where a rule names none of them."""
    if error["type"] not in ("union_tag_invalid", "union_tag_not_found"):
        return None
    got = error["input"]
    if not isinstance(got, dict) or "action" not in got:
        return "has no `action`: add `action: log`, `tag`, `steer`, `respond` or `block`"
    if got["action"] == "judge":
        return (
            "got `action: judge`, but this version has no judge: use `log` to watch, or `block`, "
            "`respond` or `steer` to act"
        )
    expected = error.get("ctx", {}).get("expected_tags", "")
    return f"got `action: {got['action']}`, want one of {expected}"


def _checked(policy: Policy) -> Policy:
    problems: list[Problem] = policy_problems(policy)
    raise_problems(problems)
    return policy


def _distinct(policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    raise_problems(repeated_names(policies))
    return policies


def repeated_names(policies: Iterable[Policy]) -> list[Problem]:
    """Return an error for each policy whose name an earlier one has."""
    problems: list[Problem] = []
    seen: dict[str, Policy] = {}
    for policy in policies:
        first = seen.setdefault(policy.name, policy)
        if first is not policy:
            text = (
                f"`{policy.name}` is loaded from {first.source.file or 'elsewhere'} already: "
                f"rename one, or name the path once"
            )
            problems.append(problem_at(policy.source, ("metadata", "name"), text))
    return problems
