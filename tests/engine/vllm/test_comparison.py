"""What differs from what is relied on is found, and named with what was wanted."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import pytest

from pilothouse.engine.vllm.check import Installed, missing, written
from pilothouse.engine.vllm.protocols import replaced
from pilothouse.engine.vllm.relied_on import RELIED_ON, Use, uses_of
from pilothouse.engine.vllm.version import KNOWN, TESTED

MODULE = "a_release"


class Shape(Protocol):
    """Something with a number, and a method in whose place ours is called."""

    number: int

    @property
    def size(self) -> int: ...

    def asked(self, first: int, *, last: int) -> None: ...

    @replaced
    def _told(self, first: int, second: int) -> None: ...


class Whole:
    """Everything that the shape wants, and more."""

    def __init__(self) -> None:
        self.number = 1

    @property
    def size(self) -> int:
        return 0

    def asked(self, first: int, more: int = 0, last: int = 0) -> None: ...

    def _told(self, first: int, second: int) -> None: ...


class Derived(Whole):
    """The same, inherited."""


@dataclass
class Fields:
    """A record with one field that must be given."""

    first: int
    second: int = 0


class Open(ABC):
    """A class that leaves a method open."""

    @abstractmethod
    def get(self) -> None: ...


def function(first: int, second: int, *, third: int = 0) -> None:
    """Do nothing."""


def without(name: str) -> type:
    members = {key: value for key, value in vars(Whole).items() if key != name}
    return type("Whole", (), members)


def with_method(name: str, method: Any) -> type:
    return type("Whole", (), {**vars(Whole), name: method})


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module as a release of vLLM would have it."""
    module = ModuleType(MODULE)
    for each in (Whole, Derived, Fields, Open, function):
        setattr(module, each.__name__, each)
    module.variables = {"ONE": 1}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


def problems(*uses: Use) -> list[str]:
    return missing(uses, Installed())


@pytest.mark.parametrize(
    "use",
    [
        Use(MODULE, "function", "(first, second, *, third)"),
        Use(MODULE, "function", "(first, second)"),
        Use(MODULE, "function", "(first, *, second)"),
        Use(MODULE, "Whole", shape=Shape),
        Use(MODULE, "Derived", shape=Shape),
        Use(MODULE, "Fields", fields=("first", "second")),
        Use(MODULE, "Open", defines=("get", "get_more")),
        Use(MODULE, "variables", keys=("ONE",)),
        Use(MODULE, "Whole.asked", "(first, *, last)"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("release")
def test_a_release_that_has_what_is_wanted_has_no_problem(use: Use) -> None:
    assert problems(use) == []


@pytest.mark.parametrize(
    ("use", "line"),
    [
        (Use("no_release", "x"), "no_release.x: is not there"),
        (Use(MODULE, "x"), "a_release.x: is not there"),
        (Use(MODULE, "Whole.x"), "a_release.Whole.x: is not there"),
        (
            Use(MODULE, "function", "(first)"),
            "a_release.function: takes (first, second, *, third), wanted (first), as it is called",
        ),
        (
            Use(MODULE, "function", "(second, first)"),
            "a_release.function: takes (first, second, *, third), wanted (second, first), "
            "as it is called",
        ),
        (
            Use(MODULE, "function", "(first, second, *, fourth)"),
            "a_release.function: takes (first, second, *, third), wanted (first, second, *, "
            "fourth), as it is called",
        ),
        (
            Use(MODULE, "Fields", fields=("second",)),
            "a_release.Fields: requires ['first'], wanted at most ['second']",
        ),
        (Use(MODULE, "Fields", fields=("first", "x")), "a_release.Fields.x: is not there"),
        (
            Use(MODULE, "Open", defines=("put",)),
            "a_release.Open: leaves ['get'] open, wanted at most ['put']",
        ),
        (Use(MODULE, "variables", keys=("ONE", "X")), "a_release.variables['X']: is not there"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("release")
def test_a_difference_is_named_with_what_was_wanted(use: Use, line: str) -> None:
    assert problems(use) == [line]


@pytest.mark.parametrize("name", ["__init__", "size", "asked", "_told"])
def test_a_member_that_has_gone_is_named(release: ModuleType, name: str) -> None:
    release.Whole = without(name)  # type: ignore[attr-defined]
    gone = "number" if name == "__init__" else name
    assert problems(Use(MODULE, "Whole", shape=Shape)) == [f"a_release.Whole.{gone}: is not there"]


def test_an_argument_that_ours_would_not_take_is_a_difference(release: ModuleType) -> None:
    def told(self: object, first: int, second: int, third: int = 0) -> None: ...

    release.Whole = with_method("_told", told)  # type: ignore[attr-defined]
    assert problems(Use(MODULE, "Whole", shape=Shape)) == [
        "a_release.Whole._told: takes (first, second, third), wanted (first, second), "
        "as vLLM calls what replaces it"
    ]


def test_an_argument_that_need_not_be_given_is_none_where_it_is_only_called(
    release: ModuleType,
) -> None:
    def asked(self: object, first: int, *, last: int, new: int = 0) -> None: ...

    release.Whole = with_method("asked", asked)  # type: ignore[attr-defined]
    assert problems(Use(MODULE, "Whole", shape=Shape)) == []


def test_rows_hold_for_the_versions_that_they_name() -> None:
    use = Use(MODULE, "x", since="0.9", until="0.31")
    assert [use.holds_for(minor) for minor in ("0.8", "0.9", "0.31", "0.32")] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("minor", KNOWN)
def test_each_version_has_one_row_for_each_name(minor: str) -> None:
    for part in RELIED_ON:
        names = [use.where for use in uses_of(minor, part)]
        assert len(names) == len(set(names))
    lasts = {use.name for use in uses_of(minor)}
    assert {"cli_env_setup", "load_chat_template", "ChatTemplateResolutionError"} <= lasts


def test_what_is_tested_is_known() -> None:
    assert set(TESTED) <= set(KNOWN)


def test_parameters_are_read_as_they_are_written() -> None:
    assert str(written("(a, b=1, *, c, d=2, **kwargs)")) == "(a, b, *, c, d, **kwargs)"
    assert written("(self, a, *args)").positional == ("a",)
    assert written("(a, b=1, *, c, d=2)").required == {"a", "c"}
