"""`vector import`: what is said beside the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilothouse.artifacts.vectors import FORMATS, Format, register
from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.import_command import run_import


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    writers.write_gguf(tmp_path / "v.gguf")
    return tmp_path / "v.gguf"


def test_json_is_the_manifest_and_the_notes(vector: Path) -> None:
    result = run_import(vector, "gguf", "--norms", "4,5", "--json")
    assert result.exit_code == 0
    manifest = json.loads((vector.parent / "out" / "manifest.json").read_text())
    assert json.loads(result.output) == {"manifest": manifest, "notes": []}
    assert (manifest["name"], manifest["layers"]) == ("out", [2, 3])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--norms", "4,5", "--site", "resid_pre"), "--site: got it with --format gguf"),
        (("--norms", "4,5", "--feature", "1"), "--feature: got it with --format gguf"),
        (("--norms", "4,5", "--layer", "two"), "--layer: got 'two'"),
        (("--norms", "4,5", "--layer", "3-2"), "--layer: got '3-2'"),
        (("--norms", "4,5", "--layer", "2", "--layer", "2"), "want each layer once"),
        (("--norms", "4,5", "--layer", "2=direction.2"), "only safetensors has names"),
        (("--norms", "4"), "got 1 numbers, want one for each of layers [2, 3]"),
        (("--norms", "4,-5"), "want positive numbers"),
        (("--norms", "4,nan"), "want positive numbers"),
        (("--norms", "long,short"), "want numbers with commas"),
        ((), "LLM.capture(prompts, layers=[2, 3], sites=['resid_post']"),
    ],
)
def test_options_that_do_not_fit_are_wrong_use(
    vector: Path, words: tuple[str, ...], told: str
) -> None:
    result = run_import(vector, "gguf", *words)
    assert (result.exit_code, told in result.output) == (2, True), result.output
    assert not (vector.parent / "out").exists()


def test_an_unknown_format_is_wrong_use(vector: Path) -> None:
    result = run_import(vector, "ggml")
    assert result.exit_code == 2
    assert "want one of act, act-mean, angular" in result.output


def test_a_folder_that_holds_something_is_not_written_to(vector: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a")
    result = run_import(vector, "gguf", "--norms", "4,5", out=tmp_path / "full")
    assert result.exit_code == 2
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["a"]


def test_a_format_is_registered_once() -> None:
    taken: Format = FORMATS["gguf"]
    with pytest.raises(ValueError, match="twice"):
        register(taken)
