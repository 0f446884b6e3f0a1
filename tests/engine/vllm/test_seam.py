"""One folder reaches into vLLM: what lies in `vllm.v1`, and what vLLM's objects keep private."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.engine.vllm.check import members_of
from pilothouse.engine.vllm.relied_on import RELIED_ON
from pilothouse.engine.vllm.version import KNOWN

PACKAGE = Path(__file__).resolve().parents[3] / "middleware" / "pilothouse"
SEAM = PACKAGE / "engine" / "vllm"

NAMED_TUPLES = frozenset({"_asdict", "_fields", "_make", "_replace"})
"""Public in spite of their names, by Python's own documentation."""
TORCHS = {
    "engine/plan/dtype.py": frozenset({"_is_avx512_bf16_supported", "_is_amx_tile_supported"}),
}
"""Private names of other libraries: torch tells of the processor's bfloat16 in no other way."""


def files(root: Path) -> list[Path]:
    return [each for each in sorted(root.rglob("*.py")) if not each.is_relative_to(SEAM)]


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import of vLLM's, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "vllm":
                    yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            module = "" if node.level else node.module or ""
            if module.split(".")[0] == "vllm":
                for alias in node.names:
                    yield module, alias.name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLES


def own_names(trees: dict[Path, ast.Module]) -> set[str]:
    """Return the private names that the package itself gives to what its classes have."""
    found = set()
    for tree in trees.values():
        for kind in ast.walk(tree):
            if not isinstance(kind, ast.ClassDef):
                continue
            for node in ast.walk(kind):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(node.name)
                elif isinstance(node, ast.AnnAssign | ast.Assign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    found |= {name for each in targets for name in assigned(each)}
    return {name for name in found if is_private(name)}


def assigned(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple):
        for each in target.elts:
            yield from assigned(each)
    elif isinstance(target, ast.Attribute) and is_self(target.value):
        yield target.attr


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def vllms_names() -> set[str]:
    """Return the private names of vLLM's that the seam relies on."""
    shapes = {use.shape for uses in RELIED_ON.values() for use in uses if use.shape is not None}
    return {name for shape in shapes for name in members_of(shape) if is_private(name)}


def reaches(root: Path) -> list[str]:
    """Return a line for each private name that is reached into, outside the seam.

    Names that a class of ours gives are its own affair, but on `self` and `super()` too no other
    names are allowed, for there vLLM's are inherited. What vLLM's classes are known to keep private
    may not be spelled at all: not as a method that replaces it, nor as a text for `getattr`.
    """
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files(root)}
    own, theirs = own_names(trees), vllms_names()
    found = []
    for file, tree in trees.items():
        place = file.relative_to(root).as_posix()
        for node in ast.walk(tree):
            name, is_theirs = "", False
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                name, is_theirs = node.attr, node.attr not in own
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = node.name
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value
            if (is_theirs or name in theirs) and name not in TORCHS.get(place, ()):
                found.append(f"{place}:{getattr(node, 'lineno', 0)}: {name}")
    return found


def test_no_other_file_imports_vllms_engine() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}: {module}"
        for file in files(PACKAGE)
        for module, name in imports(ast.parse(file.read_text(encoding="utf-8")))
        if f"{module}.{name}.".startswith("vllm.v1.")
    ]
    assert found == []


def test_no_other_file_reaches_what_vllm_keeps_private() -> None:
    assert reaches(PACKAGE) == []


@pytest.mark.parametrize(
    "line",
    [
        "hasher = request._block_hasher",
        "hasher = getattr(request, '_block_hasher')",
        "class S(Base):\n    def may_run(self):\n        return self._skipped_waiting",
        "class S(Base):\n    def may_run(self):\n        return super()._preempt_request()",
        "class S(Base):\n    def _prepare_inputs(self, output, counts): ...",
        "engine.scheduler._update_after_schedule = lambda: None",
    ],
)
def test_the_guard_sees_a_private_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "new.py").write_text(line + "\n")
    assert len(reaches(tmp_path)) == 1


def test_the_guard_leaves_a_class_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class A:\n    def __init__(self):\n        self._kept = 1\n")
    (tmp_path / "b.py").write_text("from a import A\nkept = A()._kept\nrow = row._replace(a=1)\n")
    assert reaches(tmp_path) == []


def test_every_import_of_vllms_is_among_what_is_relied_on() -> None:
    rows = {(use.module, use.name) for uses in RELIED_ON.values() for use in uses}
    modules = {module for module, _ in rows}
    unknown = [
        f"{file.relative_to(PACKAGE)}: from {module} import {name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for module, name in imports(ast.parse(file.read_text(encoding="utf-8")))
        if (module, name) not in rows and f"{module}.{name}" not in modules
    ]
    assert unknown == []


def test_every_row_is_about_a_name_that_the_package_uses() -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))]
    for uses in RELIED_ON.values():
        for use in uses:
            for name in use.keys or (use.name.split(".")[-1],):
                count = sum(text.count(name) for text in texts)
                assert count > 1 or use.shape, f"{use.where}: {name} stands in the table alone"


def test_every_member_of_a_shape_is_used() -> None:
    texts = [
        file.read_text(encoding="utf-8")
        for file in sorted(PACKAGE.rglob("*.py"))
        if not file.stem.endswith("protocols")
    ]
    unused = {
        f"{use.where}.{name}"
        for uses in RELIED_ON.values()
        for use in uses
        for name in (members_of(use.shape) if use.shape else ())
        if not any(re.search(rf"[.\"]{name}\b|def {name}\b", text) for text in texts)
    }
    assert unused == set()


def test_every_known_version_has_a_module_of_its_own() -> None:
    there = {each.stem for each in SEAM.glob("v0_*.py")}
    assert there == {f"v{minor.replace('.', '_')}" for minor in KNOWN}
