"""`probe show` and `vector show`: what is in a folder, or why it cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pilothouse.artifacts.manifest import ReadoutAggregate, Threshold
from pilothouse.artifacts.probe import save_probe
from pilothouse.artifacts.vector import save_vector
from pilothouse.cli import probe as probe_verb
from pilothouse.cli import vector as vector_verb
from tests.support.artifacts.folders import probe, readout, vector

RUN = CliRunner()
TRANSFORMS = Path(__file__).parents[2] / "probes/demo/transforms"
THRESHOLD = Threshold(target_fpr=0.01, value=0.875, n=400, exceedances=0, fpr_upper=0.0075)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    smooth = readout(
        scope="answer",
        aggregate=ReadoutAggregate(kind="ema_max", half_life_tokens=4),
        thresholds=(THRESHOLD,),
    )
    save_probe(probe(readouts={"prompt_max": readout(), "smooth": smooth}), tmp_path / "misuse")
    save_vector(vector(), tmp_path / "cheerful")
    return tmp_path


def test_probe_show_prints_readouts_and_thresholds(folder: Path) -> None:
    result = RUN.invoke(probe_verb.app, ["show", str(folder / "misuse")])
    assert result.exit_code == 0
    for text in (
        "misuse",
        "demo, d_model 8",
        "resid_post at layers 4",
        "prompt_max (default): max over",
        "smooth: ema_max, half life 4 over answer",
        "at fpr 0.01: value >= 0.875",
        "bound 0.0075 on 400 negatives",
        "made by   a test",
    ):
        assert text in result.output


def test_vector_show_prints_lengths_by_layer(folder: Path) -> None:
    result = RUN.invoke(vector_verb.app, ["show", str(folder / "cheerful")])
    assert result.exit_code == 0
    assert vector().digest in result.output
    assert "layer 2" in result.output
    assert "layer 4" in result.output


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cheer-act", ["diagonal  ", " of 192 dimensions"]),
        ("cheer-reft", ["lowrank   ", "rows, the largest stretch"]),
        ("moods", ["plane     ", "2 of 192 directions"]),
        ("voices", ["subspace  ", "2 of 192 directions"]),
    ],
)
def test_vector_show_tells_what_a_transform_touches(name: str, told: list[str]) -> None:
    result = RUN.invoke(vector_verb.app, ["show", str(TRANSFORMS / name)])
    assert result.exit_code == 0, result.output
    for text in told:
        assert text in result.output


@pytest.mark.parametrize(("verb", "name"), [(probe_verb, "misuse"), (vector_verb, "cheerful")])
def test_json_is_the_manifest(verb: object, name: str, folder: Path) -> None:
    result = RUN.invoke(verb.app, ["show", str(folder / name), "--json"])  # type: ignore[attr-defined]
    assert result.exit_code == 0
    assert json.loads(result.output) == json.loads((folder / name / "manifest.json").read_text())


@pytest.mark.parametrize("verb", [probe_verb, vector_verb])
def test_a_folder_that_cannot_be_used_is_a_finding(verb: object, tmp_path: Path) -> None:
    result = RUN.invoke(verb.app, ["show", str(tmp_path / "nowhere")])  # type: ignore[attr-defined]
    assert result.exit_code == 1
    assert "folder: got nothing" in result.output


@pytest.mark.parametrize("verb", [probe_verb, vector_verb])
def test_no_folder_is_wrong_use(verb: object) -> None:
    assert RUN.invoke(verb.app, ["show"]).exit_code == 2  # type: ignore[attr-defined]
