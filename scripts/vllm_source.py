"""A release of vLLM, read from source that is not installed: nothing of it is imported."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from pilothouse.engine.vllm.check import Signature, signature_of_tree

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.expr | None
"""What defines a name; None for an annotation, or for what another library defines."""

LAZY = "MODULE_ATTRS"
"""The dict in which `vllm/__init__.py` says where its names are: `name: ".module:name"`."""


class Unpacked:
    """A release whose wheel was unpacked into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.definition = cache(self._definition)
        self._tree = cache(self._parse)

    def find(self, module: str, name: str) -> Parsed | None:
        """Return what a module has under a name, which may be dotted."""
        first, *rest = name.split(".")
        found = self.definition(module, first)
        for part in rest:
            found = None if found is None else found.member(part)
        return found

    def _definition(self, module: str, name: str) -> Parsed | None:
        tree = self._tree(module)
        if tree is None:
            return None
        for node in _statements(tree.body):
            if isinstance(node, ast.ImportFrom):
                found = self._imported(module, node, name)
                if found is not None:
                    return found
            else:
                found = _defined(node, name)
                if found is not _NOT_HERE:
                    return Parsed(self, module, found)
        if self._tree(f"{module}.{name}") is not None:
            return Parsed(self, module, None)
        return self._lazy(tree, name)

    def _imported(self, module: str, node: ast.ImportFrom, name: str) -> Parsed | None:
        source = self._absolute(module, node)
        for alias in node.names:
            if alias.name == "*" and source.startswith("vllm"):
                found = self.definition(source, name)
                if found is not None:
                    return found
            elif (alias.asname or alias.name) == name:
                if not source.startswith("vllm"):
                    return Parsed(self, module, None)
                return self.definition(source, alias.name)
        return None

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        is_package = self._path(module).name == "__init__.py"
        base = parts[: len(parts) - node.level + is_package]
        return ".".join([*base, *(node.module or "").split(".")]).rstrip(".")

    def _lazy(self, tree: ast.Module, name: str) -> Parsed | None:
        for node in tree.body:
            told = _defined(node, LAZY)
            if isinstance(told, ast.Dict):
                for key, value in zip(told.keys, told.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == name:
                        module, _, real = ast.literal_eval(value).partition(":")
                        return self.definition(f"vllm{module}", real)
        return None

    def _path(self, module: str) -> Path:
        stem = self._folder.joinpath(*module.split("."))
        return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")

    def _parse(self, module: str) -> ast.Module | None:
        path = self._path(module)
        return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None


class Parsed:
    """One definition, and the module in which it stands."""

    def __init__(self, release: Unpacked, module: str, node: Definition) -> None:
        self._release = release
        self._module = module
        self._node = node

    def signature(self) -> Signature | None:
        """Return the parameters; None where it is no function."""
        if not isinstance(self._node, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        return signature_of_tree(self._node.args)

    def member(self, name: str) -> Parsed | None:
        """Return what a class, or an object of it, has under a name."""
        for kind in self._kinds():
            assert isinstance(kind._node, ast.ClassDef)
            for node in kind._node.body:
                found = _defined(node, name)
                if found is not _NOT_HERE:
                    return Parsed(self._release, kind._module, found)
            if any(_assigns_to_self(node, name) for node in ast.walk(kind._node)):
                return Parsed(self._release, kind._module, None)
        return None

    def required_fields(self) -> Collection[str]:
        """Return the fields without which no object of a record class can be made."""
        fields: dict[str, bool] = {}
        for kind in reversed(list(self._kinds())):
            assert isinstance(kind._node, ast.ClassDef)
            for node in kind._node.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    fields[node.target.id] = node.value is None
        return [name for name, is_required in fields.items() if is_required]

    def abstract_methods(self) -> Collection[str]:
        """Return the methods that an abstract class leaves open."""
        is_open: dict[str, bool] = {}
        for kind in reversed(list(self._kinds())):
            assert isinstance(kind._node, ast.ClassDef)
            for node in kind._node.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    is_open[node.name] = any(
                        ast.unparse(each).endswith("abstractmethod") for each in node.decorator_list
                    )
        return [name for name, still in is_open.items() if still]

    def keys(self) -> Collection[str]:
        """Return the keys of a dict."""
        if not isinstance(self._node, ast.Dict):
            return ()
        return [str(each.value) for each in self._node.keys if isinstance(each, ast.Constant)]

    def _kinds(self) -> Iterator[Parsed]:
        """Yield the class, then those of vLLM's that it is derived from."""
        if not isinstance(self._node, ast.ClassDef):
            return
        yield self
        for base in self._node.bases:
            found = self._release.find(self._module, ast.unparse(base).split("[")[0])
            if found is not None:
                yield from found._kinds()


_NOT_HERE = ast.Constant(None)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield a module's statements, also those under `if` and `try`; the last of a name counts."""
    for node in reversed(body):
        for inner in ("finalbody", "orelse", "handlers", "body"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                for each in reversed(getattr(node, inner, [])):
                    nested = each.body if isinstance(each, ast.ExceptHandler) else [each]
                    yield from _statements(nested)
        yield node


def _defined(node: ast.AST, name: str) -> Definition:
    """Return what a statement defines under a name; `_NOT_HERE` where that is nothing."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return node if node.name == name else _NOT_HERE
    if isinstance(node, ast.AnnAssign):
        return node.value if _is_name(node.target, name) else _NOT_HERE
    if isinstance(node, ast.Assign):
        return node.value if any(_is_name(each, name) for each in node.targets) else _NOT_HERE
    if isinstance(node, ast.Import):
        names = [each.asname or each.name.split(".")[0] for each in node.names]
        return None if name in names else _NOT_HERE
    return _NOT_HERE


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _assigns_to_self(node: ast.AST, name: str) -> bool:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = [
            inner
            for each in node.targets
            for inner in (each.elts if isinstance(each, ast.Tuple) else [each])
        ]
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return any(
        isinstance(each, ast.Attribute) and each.attr == name and _is_name(each.value, "self")
        for each in targets
    )
