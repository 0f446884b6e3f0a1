"""`import_vector` from Python: the command's artefact, without the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pilothouse.artifacts import import_vector
from pilothouse.artifacts.vector import load_vector
from pilothouse.errors import ConfigError
from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.import_command import run_import


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    writers.write_gguf(tmp_path / "v.gguf")
    return tmp_path / "v.gguf"


def test_it_writes_what_the_command_writes(foreign: Path) -> None:
    here = foreign.parent
    assert run_import(foreign, "gguf", "--norms", "4,5").exit_code == 0
    told = load_vector("out", here / "out")
    imported = import_vector(
        foreign, here / "own" / "out", format_name="gguf", model_id=told.model_id, norms="4,5"
    )
    assert imported.notes == ()
    assert imported.source.digest == told.digest
    assert load_vector("out", here / "own" / "out").digest == told.digest


def test_a_folder_that_holds_something_and_a_wrong_layer_are_refused(foreign: Path) -> None:
    (foreign.parent / "full").mkdir()
    (foreign.parent / "full" / "file").touch()
    with pytest.raises(ConfigError, match="already"):
        import_vector(
            foreign, foreign.parent / "full", format_name="gguf", model_id="m", norms="4,5"
        )
    with pytest.raises(ConfigError, match="got '3-2'"):
        import_vector(
            foreign,
            foreign.parent / "new",
            format_name="gguf",
            model_id="m",
            norms="4,5",
            layers=["3-2"],
        )
    assert not (foreign.parent / "new").exists()


@pytest.mark.parametrize(
    ("given", "words", "here", "there"),
    [
        ({"layers": ["3-2"]}, ["--layer", "3-2"], "layers: got '3-2'", "--layer: got '3-2'"),
        ({"site": "attic"}, ["--site", "attic"], "site: got 'attic'", "--site: got 'attic'"),
        ({"norms": None}, [], "norms: got nothing", "--norms: got nothing"),
        (
            {"top": 3},
            ["--top", "3", "--norms", "4,5"],
            "top: got it with format_name='gguf'",
            "--top: got it with --format gguf",
        ),
        (
            {"layers": ["9"]},
            ["--layer", "9", "--norms", "4"],
            "layers: got 9",
            "--layer: got 9",
        ),
        (
            {"format_name": "magic"},
            ["--format", "magic", "--norms", "4,5"],
            "format_name: got 'magic'",
            "--format: got 'magic'",
        ),
    ],
)
def test_python_is_told_the_argument_and_the_command_line_the_option(
    foreign: Path, given: dict[str, Any], words: list[str], here: str, there: str
) -> None:
    arguments = {"format_name": "gguf", "model_id": "m", "norms": "4,5"} | given
    with pytest.raises(ConfigError) as refused:
        import_vector(foreign, foreign.parent / "new", **arguments)
    assert here in str(refused.value)
    assert "--" not in str(refused.value)
    done = run_import(foreign, "gguf", *words)
    assert done.exit_code in (1, 2)
    assert there in done.output
    assert "format_name" not in done.output
