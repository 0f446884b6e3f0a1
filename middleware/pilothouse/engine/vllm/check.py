"""The comparison at start: what a process relies on, and the vLLM that is installed.

A `Release` answers questions about one release, whichever way it is looked at: `Installed` by
importing it, and `scripts/vllm_source.py` by reading source that is not installed. Both are asked
the same.
"""

from __future__ import annotations

import ast
import dis
import inspect
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType
from typing import Any, Protocol

from pilothouse.engine.vllm.protocols import REPLACED
from pilothouse.engine.vllm.relied_on import Part, Use, uses_of
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


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a function, without the object that it belongs to.

    `positional` may be given by place, in this order, and `keyword` only by name; `required` are
    those of both that have no default.
    """

    positional: tuple[str, ...]
    keyword: frozenset[str]
    required: frozenset[str]
    takes_args: bool
    takes_kwargs: bool

    @property
    def names(self) -> frozenset[str]:
        """The names of all parameters."""
        return self.keyword.union(self.positional)

    def __str__(self) -> str:
        """Write the parameters as they stand behind `def`."""
        star = "*args" if self.takes_args else "*" if self.keyword else None
        parts = [*self.positional, *([star] if star else []), *sorted(self.keyword)]
        return f"({', '.join([*parts, *(['**kwargs'] if self.takes_kwargs else [])])})"


class Found(Protocol):
    """Something of vLLM's that a row names."""

    def signature(self) -> Signature | None:
        """Return the parameters; None where it is no function or hides them."""

    def member(self, name: str) -> Found | None:
        """Return what a class, or an object of it, has under a name."""

    def required_fields(self) -> Collection[str]:
        """Return the fields without which no object of a record class can be made."""

    def abstract_methods(self) -> Collection[str]:
        """Return the methods that an abstract class leaves open."""

    def keys(self) -> Collection[str]:
        """Return the keys of a dict."""


class Release(Protocol):
    """One release of vLLM."""

    def find(self, module: str, name: str) -> Found | None:
        """Return what a module has under a name, which may be dotted."""


def missing(uses: Iterable[Use], release: Release) -> list[str]:
    """Return a line for each difference: where it is, what was found, what was wanted."""
    return [line for use in uses for line in _missing(use, release)]


def _missing(use: Use, release: Release) -> Iterator[str]:
    found = release.find(use.module, use.name)
    if found is None:
        yield f"{use.where}: is not there"
        return
    if use.takes is not None:
        yield from _misfits(use.where, found, written(use.takes), is_replaced=False)
    if use.shape is not None:
        yield from _misshapen(use.where, found, use.shape)
    if use.fields is not None:
        unmet = sorted(set(found.required_fields()) - set(use.fields))
        if unmet:
            yield f"{use.where}: requires {unmet}, wanted at most {list(use.fields)}"
        for each in use.fields:
            if found.member(each) is None:
                yield f"{use.where}.{each}: is not there"
    if use.defines is not None:
        left_open = sorted(set(found.abstract_methods()) - set(use.defines))
        if left_open:
            yield f"{use.where}: leaves {left_open} open, wanted at most {list(use.defines)}"
    if use.keys:
        for each in sorted(set(use.keys) - set(found.keys())):
            yield f"{use.where}[{each!r}]: is not there"


def _misshapen(where: str, found: Found, shape: type) -> Iterator[str]:
    for name, function in members_of(shape).items():
        got = found.member(name)
        if got is None:
            yield f"{where}.{name}: is not there"
        elif function is not None:
            wanted = signature_of(function)
            assert wanted is not None
            is_replaced = getattr(function, REPLACED, False)
            yield from _misfits(f"{where}.{name}", got, wanted, is_replaced=is_replaced)


def _misfits(where: str, found: Found, wanted: Signature, *, is_replaced: bool) -> Iterator[str]:
    got = found.signature()
    if got is None:
        return
    by_place = wanted.positional[: len(got.positional)] if got.takes_args else wanted.positional
    fits = got.positional[: len(by_place)] == by_place
    fits = fits and (got.takes_kwargs or wanted.keyword <= got.names)
    if not wanted.takes_kwargs:
        fits = fits and got.required <= wanted.names
        # Where vLLM calls ours in place of its own, ours must take whatever its own takes.
        fits = fits and (not is_replaced or got.names <= wanted.names)
    if not fits:
        why = "as vLLM calls what replaces it" if is_replaced else "as it is called"
        yield f"{where}: takes {got}, wanted {wanted}, {why}"


def members_of(shape: type) -> dict[str, FunctionType | None]:
    """Return the members of a Protocol: methods with their function, attributes with None."""
    members: dict[str, FunctionType | None] = {}
    for each in reversed(shape.__mro__):
        if Protocol not in each.__bases__:
            continue
        members |= dict.fromkeys(inspect.get_annotations(each))
        for name, value in vars(each).items():
            if isinstance(value, property):
                members[name] = None
            elif isinstance(value, FunctionType) and value.__module__ == each.__module__:
                members[name] = value
    return members


def signature_of(function: object) -> Signature | None:
    """Return the parameters of a function, or of a method with its object left out."""
    try:
        found = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return _signature(
        (each.name, each.kind, each.default is not each.empty) for each in found.parameters.values()
    )


def written(text: str) -> Signature:
    """Return the parameters that are written as they stand behind `def`."""
    tree = ast.parse(f"lambda {text[1:-1]}: 0", mode="eval").body
    assert isinstance(tree, ast.Lambda)
    return signature_of_tree(tree.args)


def signature_of_tree(arguments: ast.arguments) -> Signature:
    """Return the parameters of a parsed function."""
    by_place = [*arguments.posonlyargs, *arguments.args]
    without = len(by_place) - len(arguments.defaults)
    parameters: list[tuple[str, object, bool]] = [
        (each.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, place >= without)
        for place, each in enumerate(by_place)
    ]
    if arguments.vararg is not None:
        parameters.append((arguments.vararg.arg, inspect.Parameter.VAR_POSITIONAL, False))
    parameters += [
        (each.arg, inspect.Parameter.KEYWORD_ONLY, default is not None)
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg is not None:
        parameters.append((arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD, False))
    return _signature(parameters)


def _signature(parameters: Iterable[tuple[str, object, bool]]) -> Signature:
    """Return a signature of (name, kind, whether there is a default); `self` and `cls` go."""
    given = [
        each for place, each in enumerate(parameters) if place or each[0] not in ("self", "cls")
    ]
    kinds = {kind for _, kind, _ in given}
    named = [each for each in given if each[1] not in _VARIABLE]
    only = inspect.Parameter.KEYWORD_ONLY
    return Signature(
        positional=tuple(name for name, kind, _ in named if kind is not only),
        keyword=frozenset(name for name, kind, _ in named if kind is only),
        required=frozenset(name for name, _, has_default in named if not has_default),
        takes_args=inspect.Parameter.VAR_POSITIONAL in kinds,
        takes_kwargs=inspect.Parameter.VAR_KEYWORD in kinds,
    )


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
