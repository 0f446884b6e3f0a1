"""What cannot run Pilothouse is told so in one line, before anything is downloaded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def fitness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fitness", SCRIPTS / "fitness.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_python(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n" + body + "\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("system", "machine", "glibc", "flags", "line"),
    [
        ("Darwin", "arm64", (2, 36), set(), "this is Darwin"),
        ("Windows", "AMD64", (2, 36), set(), "this is Windows"),
        ("Linux", "ppc64le", (2, 36), set(), "the processor is ppc64le"),
        ("Linux", "x86_64", (2, 36), {"sse4_2"}, "no AVX2"),
        ("Linux", "x86_64", None, {"avx2"}, "not glibc"),
        ("Linux", "x86_64", (2, 17), {"avx2"}, "glibc is 2.17"),
    ],
)
def test_a_machine_that_cannot_run_it_gets_one_line(
    fitness: ModuleType,
    system: str,
    machine: str,
    glibc: tuple[int, int] | None,
    flags: set[str],
    line: str,
) -> None:
    with pytest.raises(fitness.Unfit, match=line) as caught:
        fitness.check_machine(system, machine, glibc, flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
def test_linux_on_both_processors_is_fit(fitness: ModuleType, machine: str) -> None:
    fitness.check_machine("Linux", machine, (2, 28), {"avx2"} if machine == "x86_64" else set())


def test_a_missing_system_library_is_named_with_its_package(fitness: ModuleType) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    with pytest.raises(fitness.Unfit, match=r"libnuma\.so\.1 is missing.*apt install libnuma1"):
        fitness.check_libraries(absent)


def test_too_little_memory_names_what_was_got_and_wanted(fitness: ModuleType) -> None:
    fitness.check_memory(6 * 2**30)
    with pytest.raises(fitness.Unfit, match=r"5\.5 GiB .* at least 6 GiB"):
        fitness.check_memory(5.5 * 2**30)


def test_too_little_disk_names_the_folder(
    fitness: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fitness.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 2**30))
    with pytest.raises(fitness.Unfit, match=rf"3\.0 GiB .*{tmp_path}.* at least 8 GiB"):
        fitness.check_disk(tmp_path)


def test_a_container_limit_counts_as_little_memory(fitness: ModuleType, tmp_path: Path) -> None:
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")
    assert fitness.memory_available(str(proc), str(tmp_path)) == 16 * 2**30
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(str(2**30))
    assert fitness.memory_available(str(proc), str(tmp_path)) == 16 * 2**30
    (tmp_path / "memory.max").write_text(str(4 * 2**30))
    assert fitness.memory_available(str(proc), str(tmp_path)) == 3 * 2**30


def test_a_wrong_python_is_named_with_its_version(
    fitness: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = fake_python(tmp_path, "python3", "echo 3 9 64")
    bare = fake_python(tmp_path, "python3.11", "echo 3 11 64; echo No module venv >&2; exit 1")
    monkeypatch.setattr(fitness, "candidates", lambda: iter([str(old), str(bare), "/absent"]))
    with pytest.raises(fitness.Unfit) as caught:
        fitness.find_python()
    assert f"{old} is 3.9" in str(caught.value)
    assert "3.11, lacks a module (No module venv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_usable_python_further_down_is_taken(
    fitness: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = fake_python(tmp_path, "python3", "echo 3 13 64")
    good = fake_python(tmp_path, "python3.11", "echo 3 11 64")
    monkeypatch.setattr(fitness, "candidates", lambda: iter([str(old), str(good)]))
    assert fitness.find_python() == str(good)


def test_the_real_command_exits_2_with_one_line_and_touches_nothing(tmp_path: Path) -> None:
    checkout = tmp_path / "clone"
    shutil.copytree(SCRIPTS, checkout / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    driver = (
        "import runpy, sys, fitness; "
        "fitness.memory_available = lambda: 2**30; "
        "sys.argv = ['bootstrap.py']; "
        "runpy.run_path(sys.path[1] + '/bootstrap.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", driver],
        env={**os.environ, "PYTHONPATH": str(checkout / "scripts")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("pilothouse set-up: 1.0 GiB of memory is free")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (checkout / ".venv").exists()
