"""Policies steer with and log features of SAEs that choose or normalise, whatever runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engines.own_process import in_own_process
from tests.support.parity.policy_features import run_check

PROGRAM = "tests.support.parity.policy_features"


@pytest.mark.engine
def test_parity_of_policies_features_eager_in_chunks(tmp_path: Path) -> None:
    assert max(run_check("qwen3", tmp_path, chunked=True).values()) <= 1e-4


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["--v2", None])
@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_parity_of_policies_features_compiled(
    name: str, runner: str | None, tmp_path: Path
) -> None:
    flags = [each for each in (runner, "--compiled", "--chunked") if each]
    in_own_process(tmp_path, name, *flags, program=PROGRAM)
