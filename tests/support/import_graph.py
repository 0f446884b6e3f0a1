"""Reads which modules import which as they load, from source and without loading anything.

An import inside a function, or below `if TYPE_CHECKING`, does not run when a module loads, and so
it is no edge of the graph.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class LoadedImport:
    """One import statement's target.

    Args:
        line: where the statement stands.
        module: what it names after `import` or `from`, absolute.
        name: what it takes from there, which may be a module of a package.
    """

    line: int
    module: str
    name: str = ""


def loaded_imports(text: str, package: str) -> Iterator[LoadedImport]:
    """Yield what a module imports as it loads.

    Args:
        text: the module's source.
        package: the package that its relative imports start at.
    """
    yield from _of_statements(ast.parse(text).body, package.split(".") if package else [])


def _of_statements(body: Iterable[ast.stmt], package: list[str]) -> Iterator[LoadedImport]:
    for node in body:
        if isinstance(node, ast.Import):
            for each in node.names:
                yield LoadedImport(node.lineno, each.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for each in node.names:
                yield LoadedImport(node.lineno, module, each.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif isinstance(node, ast.If) and _is_for_types(node.test):
            yield from _of_statements(node.orelse, package)
        else:
            for name in ("body", "orelse", "finalbody"):
                yield from _of_statements(getattr(node, name, ()), package)
            for handler in getattr(node, "handlers", ()):
                yield from _of_statements(handler.body, package)


def _is_for_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


@dataclass
class ImportGraph:
    """The modules below some folders, and what each imports as it loads.

    Args:
        files: the file of each module, by its dotted name.
    """

    files: dict[str, Path]
    edges: dict[str, set[str]] = field(init=False, default_factory=dict)
    """Modules of the graph that a module names in its imports."""
    others: dict[str, set[str]] = field(init=False, default_factory=dict)
    """Top-level packages outside the graph that a module names in its imports."""

    def __post_init__(self) -> None:
        """Read every file once."""
        known = {name.split(".")[0] for name in self.files}
        for name, file in self.files.items():
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            inside, outside = set(), set()
            for each in loaded_imports(file.read_text(encoding="utf-8"), package):
                full = f"{each.module}.{each.name}"
                if full in self.files:
                    inside.add(full)
                elif each.module in self.files:
                    inside.add(each.module)
                elif each.module.split(".")[0] not in known:
                    outside.add(each.module.split(".")[0])
            self.edges[name] = inside - {name}
            self.others[name] = outside

    @classmethod
    def below(cls, folders: Mapping[str, Path]) -> ImportGraph:
        """Return the graph of the packages whose folders are given by their names."""
        files = {}
        for package, folder in folders.items():
            for file in sorted(folder.rglob("*.py")):
                parts = [package, *file.relative_to(folder).with_suffix("").parts]
                files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        return cls(files)

    def loaded_with(self, name: str) -> set[str]:
        """Return every module of the graph that loads when `name` does, itself included.

        The packages above a module load before it.
        """
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            module = waiting.pop()
            if module in seen:
                continue
            seen.add(module)
            parts = module.split(".")
            above = {".".join(parts[:count]) for count in range(1, len(parts))} & self.files.keys()
            waiting += above | self.edges.get(module, set())
        return seen

    def packages_loaded_with(self, name: str) -> set[str]:
        """Return the top-level packages outside the graph that load when `name` does."""
        return set().union(*(self.others.get(each, set()) for each in self.loaded_with(name)))

    def circles(self) -> list[list[str]]:
        """Return the groups of modules that import each other, each in order of names.

        These are the strongly connected components of more than one module, found by Tarjan's
        algorithm without recursion.
        """
        order: dict[str, int] = {}
        lowest: dict[str, int] = {}
        stack: list[str] = []
        found = []
        for root in self.files:
            if root in order:
                continue
            path = [(root, iter(sorted(self.edges[root])))]
            order[root] = lowest[root] = len(order)
            stack.append(root)
            while path:
                module, targets = path[-1]
                target = next(targets, None)
                if target is None:
                    path.pop()
                    if path:
                        above = path[-1][0]
                        lowest[above] = min(lowest[above], lowest[module])
                    if lowest[module] == order[module]:
                        at = stack.index(module)
                        if len(stack) - at > 1:
                            found.append(sorted(stack[at:]))
                        del stack[at:]
                elif target not in order:
                    order[target] = lowest[target] = len(order)
                    stack.append(target)
                    path.append((target, iter(sorted(self.edges[target]))))
                elif target in stack:
                    lowest[module] = min(lowest[module], order[target])
        return found
