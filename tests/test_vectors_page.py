"""docs/guides/vectors.md: a row for every format, and commands that import what they say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from pilothouse.artifacts.catalog import load_source
from pilothouse.artifacts.vectors import FORMATS
from pilothouse.cli.main import main
from tests.support.artifacts.vector_files import MODEL_CONFIG, WRITERS

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
PAGE = (GUIDES / "vectors.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^pilothouse (vector import .*)$", PAGE, re.MULTILINE)


def test_the_table_has_every_format_and_no_other() -> None:
    cells = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)} == set(FORMATS)


def test_every_format_has_an_example() -> None:
    assert {re.findall(r"--format (\S+)", each)[0] for each in COMMANDS} == set(FORMATS)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_imports_what_it_says(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command)
    file, out = Path(words[2]), Path(words[words.index("--out") + 1])
    monkeypatch.chdir(tmp_path)
    file.parent.mkdir(exist_ok=True)
    WRITERS[str(file)](file)
    Path("config.json").write_text(json.dumps(MODEL_CONFIG))
    Path("norms.json").write_text(json.dumps({"2": 4.1, "3": 4.6}))
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    source = load_source("it", tmp_path / out)
    assert source.model_id == "demo"
    assert all(source.residual_norm(layer) > 0 for layer in source.layers)
