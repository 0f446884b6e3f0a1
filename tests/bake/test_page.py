"""docs/guides/bake.md names every baked model type and refused field, and runs as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pilothouse.bake.architecture import WRITERS
from pilothouse.cli.vector import app

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
PAGE = (GUIDES / "bake.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^pilothouse (vector bake .*)$", PAGE, re.MULTILINE)


def test_the_page_names_every_model_type_and_what_becomes_of_it() -> None:
    table = PAGE.partition("## Constants need a bias")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE)
    told = {name: what for cell, what in rows for name in re.findall(r"`(\w+)`", cell)}
    assert set(told) == set(WRITERS)
    for name, writers in WRITERS.items():
        assert ("refused" in told[name]) == (writers.biases == "none")
    adapters = PAGE.partition("vLLM takes no adapter")[2].partition(": these")[0]
    assert set(re.findall(r"`(\w+)`", adapters)) == {
        name for name, writers in WRITERS.items() if not (writers.lora and writers.lora_tables)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_has_options_that_there_are(command: str) -> None:
    bake = get_command(app).commands["bake"]  # type: ignore[attr-defined]
    known = {each for option in bake.params for each in option.opts}
    words = shlex.split(command)
    assert {each for each in words if each.startswith("--")} <= known
    # Everything is there but the model: it gets as far as reading it.
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code in (1, 2)
    assert "No such option" not in result.output
