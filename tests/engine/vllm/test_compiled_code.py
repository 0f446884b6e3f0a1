"""Compiled code is found at the next start on a CPU; what the user says holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pilothouse.engine.vllm import compiled_code
from pilothouse.engine.vllm.compiled_code import keep_compiled_code, kept_in
from pilothouse.engine.vllm.version import is_cpu_build
from tests.support.engines.own_process import said_by

PROGRAM = "tests.support.engines.compiled_answers"
NAMES = (
    "VLLM_USE_AOT_COMPILE",
    "VLLM_DISABLE_COMPILE_CACHE",
    "TORCHINDUCTOR_CACHE_DIR",
    "VLLM_TARGET_DEVICE",
)


@pytest.fixture(autouse=True)
def nothing_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the user's, and a cache of vLLM's that is empty."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever sets it meanwhile
        del os.environ[name]
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "vllm"))
    monkeypatch.setattr(compiled_code, "is_cpu_build", lambda: True)


def test_inductor_looks_where_vllm_keeps_the_rest(tmp_path: Path) -> None:
    assert kept_in() is None
    keep_compiled_code()
    folder = tmp_path / "vllm" / "torch_compile_cache" / "inductor"
    assert os.environ["VLLM_USE_AOT_COMPILE"] == "0"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == kept_in() == str(folder)
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("name", "value"), [("VLLM_USE_AOT_COMPILE", "1"), ("VLLM_DISABLE_COMPILE_CACHE", "1")]
)
def test_a_setting_of_the_users_holds(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    keep_compiled_code()
    assert {each: os.environ[each] for each in NAMES if each in os.environ} == {name: value}
    assert kept_in() is None


def test_a_folder_of_the_users_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    keep_compiled_code()
    assert os.environ["VLLM_USE_AOT_COMPILE"] == "0" and kept_in() == str(tmp_path)
    assert not (tmp_path / "vllm").exists()


def test_on_a_gpu_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_code, "is_cpu_build", lambda: False)
    keep_compiled_code()
    assert not any(each in os.environ for each in NAMES)
    assert kept_in() is None


def test_where_the_cache_cannot_be_written_torchs_own_folder_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "file"))
    keep_compiled_code()
    assert os.environ["VLLM_USE_AOT_COMPILE"] == "0"
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_the_build_is_known_by_the_signs_that_vllm_goes_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.platforms import current_platform

    assert is_cpu_build() == current_platform.is_cpu()
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    assert is_cpu_build()


def answers(cache: Path, *words: str) -> dict[str, Any]:
    """What a compiled engine says in a process of its own, and where its code came from."""
    found: dict[str, Any] = json.loads(said_by(PROGRAM, cache, *words).splitlines()[-1])
    return found


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_second_start_finds_all_code_and_answers_bit_for_bit_the_same(tmp_path: Path) -> None:
    first, second = answers(tmp_path), answers(tmp_path)
    assert second["made"] == 0 < first["made"]
    assert second["found"] > first["found"], "a graph that comes twice is found in the first, too"
    assert second["digest"] == first["digest"]
    assert first["kept_in"] == str(tmp_path / "cache" / "torch_compile_cache" / "inductor")


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(900)
def test_plain_vllm_answers_bit_for_bit_the_same_under_that_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answers(tmp_path / "whole", "--plain")
    monkeypatch.setenv("VLLM_USE_AOT_COMPILE", "0")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "found"))
    assert answers(tmp_path / "found", "--plain")["digest"] == whole["digest"]
    again = answers(tmp_path / "found", "--plain")
    assert (again["digest"], again["made"]) == (whole["digest"], 0)
