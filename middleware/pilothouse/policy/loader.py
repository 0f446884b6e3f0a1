"""Policies from files. Every error names file and line, and all of a file's errors come at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pilothouse.errors import PolicyError
from pilothouse.policy.check import policy_problems
from pilothouse.policy.discovery import find_policies
from pilothouse.policy.schema import Policy
from pilothouse.policy.source import Problem, Source, problem_at, raise_problems
from pilothouse.policy.validation_errors import validation_errors
from pilothouse.policy.yaml_document import parse_document, read_document

MAX_POLICIES = 100

Model = TypeVar("Model", bound=BaseModel)


def load_policies(paths: Iterable[Path]) -> tuple[Policy, ...]:
    """The policies under some paths, in the order of the paths, then of the folders' names.

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
    """The policy in one file.

    Raises:
        PolicyError: one line per error, each `file:line: field: got, want, what to do`.
    """
    data, source = read_document(path)
    return _checked(parse_model(Policy, data, source).placed(source))


def parse_policy(text: str, file: str = "policy.yaml") -> Policy:
    """As `load_policy`, from YAML text; `file` is what errors name."""
    data, source = parse_document(text, file)
    return _checked(parse_model(Policy, data, source).placed(source))


def policy_files(*paths: Path) -> tuple[Path, ...]:
    """The policy files that paths stand for.

    Raises:
        PolicyError: a path does not exist, there is no policy below it, or something below it
            would be passed over.
    """
    found = find_policies(paths)
    raise_problems(found.problems)
    return tuple(found.files)


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """The policy as plain JSON data with the names of the file format, without its source."""
    return policy.model_dump(mode="json", by_alias=True, exclude_none=True)


def policy_from_json(data: dict[str, Any]) -> Policy:
    """The inverse of `policy_to_json`.

    Raises:
        PolicyError: the data is not a usable policy.
    """
    return _checked(parse_model(Policy, data, Source()))


def parse_model(model: type[Model], data: dict[str, Any], source: Source) -> Model:
    """Plain data as a closed model; text is no number and 1 is no truth value.

    Raises:
        PolicyError: one line per error, each with file, line, field and remedy.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise_problems(validation_errors(error.errors(), model, source))
        raise


def _checked(policy: Policy) -> Policy:
    problems: list[Problem] = policy_problems(policy)
    raise_problems(problems)
    return policy


def _distinct(policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    raise_problems(repeated_names(policies))
    return policies


def repeated_names(policies: Iterable[Policy]) -> list[Problem]:
    """An error for each policy whose name an earlier one has."""
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
