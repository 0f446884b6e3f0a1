"""Writes down which files of the package run, in every process that has this folder on its path.

Each function of the package gets one more statement as its module is loaded: the name of its file.
Nothing is written until the file FILE_TRACE exists; then each process adds each of its files once,
as a line of its own: the process, a tab and the file.
"""

from __future__ import annotations

import ast
import builtins
import multiprocessing
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

PACKAGE = "pilothouse"
OUT = os.environ.get("FILE_TRACE", "")
seen: set[str] = set()


def note(file: str) -> None:
    """Add a file of the package to the trace, if that is there and has no such line of this one."""
    if file in seen or not os.path.exists(OUT):
        return
    seen.add(file)
    with open(OUT, "a", encoding="utf-8") as trace:
        trace.write(f"{multiprocessing.current_process().name}\t{file}\n")


class Noting(ast.NodeTransformer):
    """Puts the statement behind each function's docstring."""

    def __init__(self, file: str) -> None:
        self.statement = f"__note_file__({file!r})"

    def _with_statement(self, node: Any) -> Any:
        self.generic_visit(node)
        [added] = ast.parse(self.statement).body
        first = 1 if ast.get_docstring(node, clean=False) is not None else 0
        node.body.insert(first, added)
        return node

    visit_FunctionDef = _with_statement
    visit_AsyncFunctionDef = _with_statement


class Loader(SourceFileLoader):
    """Loads a module of the package from its source, never from byte code."""

    def path_stats(self, path: str) -> Any:
        """Say that nothing is known of the file, so that byte code is neither read nor written."""
        raise OSError(path)

    def source_to_code(self, data: Any, path: Any, **_: Any) -> Any:  # type: ignore[override]
        """Return the module's code with the added statements."""
        inside = str(path).replace(os.sep, "/").rpartition(f"/{PACKAGE}/")[2]
        tree = Noting(inside).visit(ast.parse(data, filename=path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class Finder:
    """Finds the package's modules as usual, and has them loaded by `Loader`."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of the package, and None of any other."""
        if name.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


if OUT:
    builtins.__note_file__ = note  # type: ignore[attr-defined]
    sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
