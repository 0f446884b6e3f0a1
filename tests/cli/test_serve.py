"""`serve` says where a flag would make it several times faster, and changes nothing by itself."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from pathlib import Path

import pytest

from pilothouse.cli.serve import _warn_of_slow_numbers
from pilothouse.engine.plan import dtype


@pytest.fixture
def told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> tuple[Namespace, pytest.LogCaptureFixture]:
    """A model on a processor without bfloat16, and what is logged of it."""
    monkeypatch.setattr(dtype, "missing_bfloat16", lambda: "it lacks them")
    monkeypatch.setattr("pilothouse.telemetry.logs.log_with_vllm", lambda: None)
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    caplog.set_level(logging.WARNING, logger="pilothouse")
    return Namespace(model=str(tmp_path), dtype="auto"), caplog


@pytest.mark.heavy
def test_a_slow_default_is_told_in_one_line_and_left(
    told: tuple[Namespace, pytest.LogCaptureFixture],
) -> None:
    args, log = told
    _warn_of_slow_numbers(args, ["MODEL"])
    [record] = log.records
    assert record.getMessage() == (
        "--dtype is not given: it lacks them, so that bfloat16 would be several times slower: try "
        "--dtype float32"
    )
    assert args.dtype == "auto"


@pytest.mark.parametrize("words", [["--dtype", "auto"], ["--dtype=auto"]])
def test_of_a_dtype_that_was_given_nothing_is_said(
    told: tuple[Namespace, pytest.LogCaptureFixture], words: list[str]
) -> None:
    args, log = told
    _warn_of_slow_numbers(args, words)
    assert log.records == []


def test_a_processor_that_has_them_is_not_spoken_of(
    told: tuple[Namespace, pytest.LogCaptureFixture], monkeypatch: pytest.MonkeyPatch
) -> None:
    args, log = told
    monkeypatch.setattr(dtype, "missing_bfloat16", lambda: None)
    _warn_of_slow_numbers(args, [])
    assert log.records == []
