"""The verb as its user types it."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from pilothouse.artifacts.catalog import Source, load_source
from pilothouse.cli.vector import app

RUN = CliRunner()


def run_import(place: Path, name: str, *words: str, out: Path | None = None) -> Result:
    """`pilothouse vector import` of a place; norms and model are given, words come last."""
    folder = out or place.parent / "out"
    arguments = ["import", str(place), "--format", name, "--out", str(folder), "--model-id", "demo"]
    return RUN.invoke(app, [*arguments, *words])


def imported(place: Path, name: str, *words: str) -> Source:
    """The artefact that an import writes, loaded as serving loads it."""
    result = run_import(place, name, *words)
    assert result.exit_code == 0, result.output
    return load_source("it", place.parent / "out")
