"""Parity of every operator and position, whatever runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference.hf_hooks import HookedModel
from tests.support.engines.own_process import in_own_process
from tests.support.models.tiny_architectures import make_architecture
from tests.support.parity.operators import CASES, check_cached, run_check, starting

PROGRAM = "tests.support.parity.operators"


@pytest.mark.engine
def test_parity_of_every_operator_eager_in_chunks(tmp_path: Path) -> None:
    assert max(run_check("qwen3", tmp_path, chunked=True).values()) <= 1e-4


@pytest.mark.engine
def test_no_operator_or_position_gets_what_another_left_in_the_prefix_cache(
    tmp_path: Path,
) -> None:
    make_architecture(tmp_path, "qwen3")
    with starting(tmp_path, enable_prefix_caching=True) as started:
        error, cached = check_cached(started, HookedModel(tmp_path))
    assert error <= 1e-4
    assert cached >= len(CASES) * 64, "each finds its own two blocks the second time"


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_parity_of_every_operator_compiled(tmp_path: Path) -> None:
    in_own_process(tmp_path, "gpt2", "--compiled", "--chunked", program=PROGRAM)


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chunked", ["--chunked", None])
@pytest.mark.parametrize("mode", ["--compiled", None])
@pytest.mark.parametrize("runner", ["--v2", None])
@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_parity_of_every_operator_on_every_runner(
    name: str, runner: str | None, mode: str | None, chunked: str | None, tmp_path: Path
) -> None:
    flags = [each for each in (runner, mode, chunked) if each]
    in_own_process(tmp_path, name, *flags, program=PROGRAM)
