"""Malformed and hostile files: an error that names file, field and remedy; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilothouse.artifacts.vectors import FORMATS
from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.hostile_cases import CASES
from tests.support.artifacts.import_command import run_import


@pytest.mark.parametrize("case", list(CASES))
def test_a_bad_file_is_refused_by_name_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    hostile = CASES[case]
    place = tmp_path / "bad"
    hostile.write(place)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(writers.MODEL_CONFIG))
    name, *words = hostile.words
    if words[-1:] == ["CONFIG"]:
        words[-1:] = ["--model-config", str(config)]
    if "--norms" not in words:
        words += ["--norms", "4"]
    before = sorted(tmp_path.rglob("*"))
    result = run_import(place, name, *words, "--allow-pickle-weights")
    assert result.exit_code == 1, result.output
    got, _, wanted = result.output.strip().partition(", want ")
    assert got.startswith(str(tmp_path)) and ": got " in got
    assert wanted.partition("; ")[2], "no remedy"
    for text in hostile.told:
        assert text in result.output
    assert sorted(tmp_path.rglob("*")) == before, "something was written, or ran"


PICKLED = [name for name, entry in FORMATS.items() if entry.pickled]


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_are_read_only_where_that_is_said(name: str, tmp_path: Path) -> None:
    entry = FORMATS[name]
    given = {"site": entry.sites[0], "top": "3", "width": "8", "feature": "1"}
    words = [word for each in sorted(entry.needs) for word in (f"--{each}", given[each])]
    result = run_import(tmp_path / "any", name, *words)
    assert result.exit_code == 1
    assert "--allow-pickle-weights" in result.output


def test_the_bad_files_would_run_under_a_plain_pickle(tmp_path: Path) -> None:
    import pickle

    place = tmp_path / "bad"
    CASES["refusal direction by a plain pickle that calls"].write(place)
    pickle.loads(place.read_bytes())
    assert (tmp_path / "ran").is_dir()
