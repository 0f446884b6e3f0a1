"""Captures on both model runners, eager and compiled, on one worker and on two."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engines.own_process import in_own_process

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("llama", "--v2"),
        ("llama", "--v2", "--compiled"),
        ("gpt2", "--compiled"),
        ("gemma3",),
        ("falcon_sequential",),
        ("llama", "--workers", "2"),
        ("gpt2", "--workers", "2"),
    ],
    ids=" ".join,
)
def test_rows_equal_transformers(arguments: tuple[str, ...], tmp_path: Path) -> None:
    in_own_process(tmp_path, *arguments, program="tests.support.parity.capture")
