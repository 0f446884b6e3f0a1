"""Parity: steered and probed values equal transformers with hooks, whatever runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.parity import run_check
from tests.support.tiny_architectures import architectures

CHECKOUT = Path(__file__).parents[2]
TRITON_STAND_IN = CHECKOUT / "tests" / "support" / "triton_cpu"
NAMES = sorted(architectures())
QUICK = ("gemma3", "gpt2", "llama", "mixtral", "opt", "qwen3", "falcon", "olmo2", "granite")
COMPILED_QUICK = ("qwen3", "gpt2")
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
    in_own_process(tmp_path, name, "--compiled", "--chunked")


@pytest.mark.engine
def test_parity_on_the_second_model_runner(tmp_path: Path) -> None:
    in_own_process(tmp_path, V2_QUICK, "--v2", "--chunked")


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
    in_own_process(tmp_path, name, *(each for each in (runner, mode, chunked) if each))


def in_own_process(cache: Path, *arguments: str, program: str = "tests.engine.parity") -> None:
    """Run the check as a program, with a compile cache of its own."""
    assert "parity holds" in said_by(program, cache, *arguments)


def said_by(program: str, cache: Path, *arguments: str) -> str:
    """What a program of the tests prints, that ends well."""
    changes = {"VLLM_CACHE_ROOT": str(cache / "cache"), "VLLM_LOGGING_LEVEL": "ERROR"}
    path = [str(CHECKOUT), str(CHECKOUT / "middleware")]
    if "--v2" in arguments:
        changes |= {"PILOTHOUSE_TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
        path.insert(0, str(TRITON_STAND_IN))
    inherited = os.environ.get("PYTHONPATH")
    changes["PYTHONPATH"] = os.pathsep.join([*path, inherited] if inherited else path)
    ran = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=CHECKOUT, env=os.environ | changes, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout
