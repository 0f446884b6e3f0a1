"""Parity: steered and probed values equal transformers with hooks, whatever runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engines.own_process import in_own_process
from tests.support.models.tiny_architectures import architectures
from tests.support.parity.steering import run_check

PROGRAM = "tests.support.parity.steering"
NAMES = sorted(architectures())
QUICK = ("gemma3", "gpt2", "llama", "mixtral", "opt", "qwen3", "falcon", "olmo2", "granite")
COMPILED_QUICK = ("qwen3",)  # every operator on a compiled gpt2: test_operator_parity.py
V2_QUICK = "llama"


@pytest.mark.engine
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in NAMES],
)
def test_parity_of_every_architecture_eager_in_chunks(name: str, tmp_path: Path) -> None:
    errors = run_check(name, tmp_path, chunked=True)
    assert max(errors.values()) <= 1e-4


@pytest.mark.engine
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", COMPILED_QUICK)
def test_parity_compiled(name: str, tmp_path: Path) -> None:
    in_own_process(tmp_path, name, "--compiled", "--chunked", program=PROGRAM)


@pytest.mark.engine
def test_parity_on_the_second_model_runner(tmp_path: Path) -> None:
    in_own_process(tmp_path, V2_QUICK, "--v2", "--chunked", program=PROGRAM)


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chunked", ["--chunked", None])
@pytest.mark.parametrize("mode", ["--compiled", None])
@pytest.mark.parametrize("runner", ["--v2", None])
@pytest.mark.parametrize("name", QUICK[:6])
def test_parity_matrix(
    name: str, runner: str | None, mode: str | None, chunked: str | None, tmp_path: Path
) -> None:
    flags = [each for each in (runner, mode, chunked) if each]
    in_own_process(tmp_path, name, *flags, program=PROGRAM)
