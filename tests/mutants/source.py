"""Finds the code that a mutant changes, by what it says: neither layout nor file matter.

A snippet is one expression, or statements in a row, below a function, class or variable that is
named. It is compared as a syntax tree, so that the formatter and a move to another file leave a
mutant as it is. `if x: ...` stands for the head of the statement alone.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Statements = list[ast.stmt]
Node = ast.expr | ast.stmt
BODIES = ("body", "orelse", "finalbody")


class MutantError(Exception):
    """A mutant whose code is not there exactly once, or does not parse."""


@dataclass(frozen=True)
class Span:
    """Where the code stands: characters of a file, and the column that it begins at."""

    file: Path
    start: int
    stop: int
    column: int


class Package:
    """The syntax trees of a package's files.

    Args:
        folder: the package's.
    """

    def __init__(self, folder: Path) -> None:
        self._texts = {
            file: file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.py"))
        }
        self._scopes: dict[str, list[tuple[Path, ast.AST]]] = {}
        for file, text in self._texts.items():
            for name, node in _scopes(ast.parse(text)):
                self._scopes.setdefault(name, []).append((file, node))

    def find(self, within: str, snippet: str) -> Span:
        """Return the one place where a snippet stands.

        Args:
            within: dotted names of the classes and functions around it, or the variable that is
                assigned.

        Raises:
            MutantError: it stands nowhere or in several places.
        """
        found = [
            span
            for file, scope in self._scopes.get(within, ())
            for span in self._spans(file, scope, snippet)
        ]
        if len(found) != 1:
            files = sorted({str(each.file) for each in found})
            raise MutantError(f"stands {len(found)} times in {within}, want once: {files}")
        return found[0]

    def mutated(self, within: str, snippet: str, replacement: str) -> tuple[Path, str]:
        """Return the file that a mutant changes, and its text afterwards.

        Raises:
            MutantError: the snippet is not there exactly once, or the text no longer parses.
        """
        span = self.find(within, snippet)
        new = _head(replacement) if _is_head(snippet) else replacement
        indented = textwrap.indent(new, " " * span.column).lstrip()
        text = self._texts[span.file]
        changed = text[: span.start] + indented + text[span.stop :]
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise MutantError(f"what is put into {within} does not parse: {error}") from None
        return span.file, changed

    def _spans(self, file: Path, scope: ast.AST, snippet: str) -> Iterator[Span]:
        wanted = _parsed(snippet)
        if _is_head(snippet):
            [statement] = wanted
            for node in ast.walk(scope):
                if type(node) is type(statement) and _same(_tested(node), _tested(statement)):
                    yield self._span(file, _tested(node), _tested(node))
        elif isinstance(wanted[0], ast.Expr) and len(wanted) == 1:
            for node in ast.walk(scope):
                if isinstance(node, ast.expr) and _same(node, wanted[0].value):
                    yield self._span(file, node, node)
        else:
            for node in ast.walk(scope):
                for run in _runs(node, len(wanted)):
                    if all(_same(*each) for each in zip(run, wanted, strict=True)):
                        yield self._span(file, run[0], run[-1])

    def _span(self, file: Path, first: Node, last: Node) -> Span:
        lines = self._texts[file].splitlines(keepends=True)

        def offset(line: int, column: int) -> int:
            # The parser counts columns in bytes of UTF-8.
            before = len(lines[line - 1].encode()[:column].decode())
            return sum(map(len, lines[: line - 1])) + before

        column = first.col_offset if isinstance(first, ast.stmt) else 0
        return Span(
            file,
            offset(first.lineno, first.col_offset),
            offset(last.end_lineno or 0, last.end_col_offset or 0),
            column,
        )


def _scopes(node: ast.AST, above: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield what is defined below a node, by dotted names."""
    for child in ast.iter_child_nodes(node):
        name = _name(child)
        if name is not None:
            yield above + name, child
        is_assigned = isinstance(child, ast.Assign | ast.AnnAssign)
        yield from _scopes(child, above if name is None or is_assigned else f"{above}{name}.")


def _name(node: ast.AST) -> str | None:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return None
    [target, *others] = node.targets if isinstance(node, ast.Assign) else [node.target]
    return target.id if isinstance(target, ast.Name) and not others else None


def _runs(node: ast.AST, length: int) -> Iterator[Statements]:
    for name in BODIES:
        body = getattr(node, name, None)
        if isinstance(body, list):
            yield from (body[at : at + length] for at in range(len(body) - length + 1))


def _parsed(snippet: str) -> Statements:
    try:
        return [ast.Expr(ast.parse(f"({snippet}\n)", mode="eval").body)]
    except SyntaxError:
        pass
    try:
        return ast.parse(textwrap.dedent(snippet)).body
    except SyntaxError as error:
        raise MutantError(f"the snippet {snippet!r} does not parse: {error}") from None


def _is_head(snippet: str) -> bool:
    [first, *_] = _parsed(snippet)
    body = getattr(first, "body", None)
    return isinstance(body, list) and len(body) == 1 and _same(body[0], ast.parse("...").body[0])


def _head(snippet: str) -> str:
    [statement] = _parsed(snippet)
    return ast.unparse(_tested(statement))


def _tested(statement: ast.AST) -> ast.expr:
    """Return what decides whether the body of a statement runs: its test, or what it goes over."""
    found = getattr(statement, "test", None) or getattr(statement, "iter", None)
    if not isinstance(found, ast.expr):
        raise MutantError(f"{type(statement).__name__} has no head that could be changed")
    return found


def _same(left: ast.AST, right: ast.AST) -> bool:
    """Say whether two nodes are the same code, wherever they stand."""
    if type(left) is not type(right):
        return False
    return all(
        _same_field(getattr(left, name, None), getattr(right, name, None)) for name in left._fields
    )


def _same_field(left: object, right: object) -> bool:
    if isinstance(left, ast.AST) and isinstance(right, ast.AST):
        return _same(left, right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same_field, left, right))
    return type(left) is type(right) and left == right
