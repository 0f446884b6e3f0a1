"""The comparison at start: what a process relies on, and the vLLM that is installed."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Collection, Iterator
from importlib import import_module
from types import FunctionType
from typing import Any

from pilothouse.engine.vllm.comparison import Signature, missing, signature_of
from pilothouse.engine.vllm.relied_on import Part, uses_of
from pilothouse.engine.vllm.version import check_version, minor_of, tested_range
from pilothouse.errors import UnsupportedError


def check(*parts: Part) -> None:
    """Compare what some parts of the package rely on with the vLLM that is installed.

    Modules that were not imported yet are imported, so that a process names its own parts alone.

    Raises:
        UnsupportedError: its version was not tested, or something is not as it was then; each
            difference stands on a line of its own.
    """
    found = check_version()
    problems = missing(uses_of(minor_of(found), *parts), Installed())
    if problems:
        lines = "\n".join(f"  {each}" for each in problems)
        raise UnsupportedError(
            f"vLLM {found} is installed and is not as Pilothouse knows it; tested are "
            f"{tested_range()} as they were released: install one of these\n{lines}"
        )


_NOTHING = object()


class Installed:
    """The vLLM that this Python imports."""

    def find(self, module: str, name: str) -> Imported | None:
        """Return what a module has under a name, which may be dotted."""
        try:
            found: Any = import_module(module)
        except ImportError:
            return None
        first, *rest = name.split(".")
        if not hasattr(found, first):
            return None
        thing: Imported | None = Imported(getattr(found, first))
        for part in rest:
            thing = None if thing is None else thing.member(part)
        return thing


class Imported:
    """One object: a class, a function, a dict, or whatever else a module has."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def signature(self) -> Signature | None:
        """Return the parameters; None where it is no function or hides them."""
        return signature_of(self._value) if callable(self._value) else None

    def member(self, name: str) -> Imported | None:
        """Return what a class, or an object of it, has under a name.

        What objects alone have is known from annotations, fields and assignments to `self`.
        """
        kind = self._value
        found = inspect.getattr_static(kind, name, _NOTHING)
        if found is not _NOTHING:
            is_wrapped = isinstance(found, staticmethod | classmethod)
            return Imported(found.__func__ if is_wrapped else found)
        is_given = any(_gives(each, name) for each in kind.__mro__)
        return Imported(None) if is_given else None

    def required_fields(self) -> Collection[str]:
        """Return the fields without which no object of a record class can be made."""
        found = self.signature()
        return () if found is None else found.required

    def abstract_methods(self) -> Collection[str]:
        """Return the methods that an abstract class leaves open."""
        names: Collection[str] = getattr(self._value, "__abstractmethods__", ())
        return names

    def keys(self) -> Collection[str]:
        """Return the keys of a dict."""
        return set(self._value)


def _gives(kind: type, name: str) -> bool:
    """Tell whether a class, without those it is derived from, gives its objects a name."""
    return name in inspect.get_annotations(kind) or any(
        name in function.__code__.co_names
        and any(
            each.opname == "STORE_ATTR" and each.argval == name
            for each in dis.get_instructions(function)
        )
        for function in _functions(kind)
    )


def _functions(kind: type) -> Iterator[FunctionType]:
    for value in vars(kind).values():
        inner = inspect.unwrap(value) if callable(value) else value
        if inspect.isfunction(inner):
            yield inner
