"""`pilothouse vector fit` as its user types it, on a small model, in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from pilothouse.cli.vector import app
from pilothouse.training.report import FitReport
from tests.support.engines.harness import ENVIRONMENT, environment

ENGINE = (
    "--",
    "--dtype",
    "float32",
    "--kv-cache-memory-bytes",
    str(32 << 20),
    "--max-num-seqs",
    "64",
    "--distributed-executor-backend",
    "uni",
)
RUN = CliRunner()


def run_fit(*words: object) -> Result:
    """The verb with these words and an engine that starts fast."""
    with environment(ENVIRONMENT):
        done = RUN.invoke(app, ["fit", *map(str, words), *ENGINE])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception  # else it would look like the exit of a finding
    return done


def report_of(folder: Path) -> FitReport:
    """What a fit wrote down."""
    return FitReport.model_validate_json((folder / "fit.json").read_text(encoding="utf-8"))
