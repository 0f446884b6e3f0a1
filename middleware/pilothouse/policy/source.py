"""Where a policy was written, and what is wrong there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pilothouse.errors import PolicyError

Location = tuple[str | int, ...]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Source:
    """A file and the line of each field in it. Two sources are equal: place is not meaning."""

    file: str = field(default="", compare=False)
    lines: Mapping[Location, int] = field(default_factory=dict, compare=False)

    def line_of(self, location: Location) -> int:
        """The 1-based line of the deepest known part of `location`; 0 without a file.

        Parts the file does not have (a missing field, the tag of a union) are skipped.
        """
        known: Location = ()
        for part in location:
            if (*known, part) in self.lines:
                known = (*known, part)
        return self.lines.get(known, 0)


@dataclass(frozen=True, order=True)
class Problem:
    """One thing to say about one place; an `error` keeps the policy from being used."""

    file: str
    line: int
    field: str
    text: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: {self.text}" if self.field else f"{place}: {self.text}"


class PolicyFileError(PolicyError):
    """Files that cannot be used; the text has one line per problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(each) for each in self.problems))


def problem_at(
    source: Source, location: Location, text: str, severity: Severity = "error"
) -> Problem:
    """A problem at a field, with the line the source knows for it."""
    line = source.line_of(location)
    return Problem(source.file or "policy", line, field_path(location), text, severity)


def field_path(location: Location) -> str:
    """`spec.rules[0].when`, as an operator would write it."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise all errors at once, one a line, in the order of the file.

    Raises:
        PolicyFileError: there is at least one error.
    """
    errors = sorted(each for each in problems if each.severity == "error")
    if errors:
        raise PolicyFileError(errors)
