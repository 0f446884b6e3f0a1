"""docs/contributing/adding-a-format.md: its file, as it stands there, imports a vector."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.vector import Vector
from pilothouse.artifacts.vectors import FORMATS
from tests.support.artifacts.import_command import imported, run_import

PAGE = Path(__file__).resolve().parents[3] / "docs" / "contributing" / "adding-a-format.md"
LONGEST = 60
ROWS = "4,1.5,0,-2\n2,0.25,1,3e-1\n"
NORMS = ("--norms", "3.9,5.2")


@pytest.fixture
def _table(tmp_path: Path) -> Iterator[None]:
    """The page's file, imported; everything is as before once the test is done."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= LONGEST
    path = tmp_path / "table.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield
    finally:
        del sys.modules[spec.name]
        FORMATS.pop("table", None)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    place = tmp_path / "rows.csv"
    place.write_text(ROWS)
    return place


def test_without_the_file_there_is_no_such_format(rows: Path) -> None:
    result = run_import(rows, "table", *NORMS)
    assert result.exit_code == 2 and "--format: got 'table', want one of" in result.output


@pytest.mark.usefixtures("_table")
def test_a_file_becomes_an_artefact_with_its_numbers_at_its_layers(rows: Path) -> None:
    vector = imported(rows, "table", *NORMS)
    assert isinstance(vector, Vector) and vector.manifest.layers == (2, 4)
    assert vector.manifest.site == "resid_post"
    np.testing.assert_array_equal(vector.direction_D(2), np.float32([0.25, 1.0, 0.3]))
    np.testing.assert_array_equal(vector.direction_D(4), np.float32([1.5, 0.0, -2.0]))


@pytest.mark.usefixtures("_table")
def test_a_layer_can_be_chosen_and_an_option_without_effect_is_refused(rows: Path) -> None:
    vector = imported(rows, "table", "--layer", "4", "--site", "resid_pre", "--norms", "5.2")
    assert vector.manifest.layers == (4,) and vector.manifest.site == "resid_pre"
    result = run_import(rows, "table", "--top", "3", *NORMS, out=rows.parent / "other")
    assert result.exit_code == 2 and "which does not take it" in result.output


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2,0.5,x\n", "could not convert"),
        ("2,0.5\n2,0.5\n", "layer 2 again"),
        ("two,0.5\n", "the number of a layer"),
        ("2,nan\n", "NaN or infinite"),
    ],
)
def test_a_row_that_is_none_is_refused_with_its_line(rows: Path, text: str, message: str) -> None:
    rows.write_text(text)
    result = run_import(rows, "table", "--norms", "3.9")
    assert result.exit_code == 1 and message in result.output and "line " in result.output
    assert not (rows.parent / "out").exists()
