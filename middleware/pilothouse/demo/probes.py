"""`python -m pilothouse.demo.probes`: fit the real model's probes and remake their cards.

Everything is made from pinned wheels and one seed. Texts are read by the served engine once and
kept as activations in the cache folder, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from pilothouse.demo.activations import Activations
from pilothouse.demo.cache import cache_folder
from pilothouse.demo.part_reader import PartReader
from pilothouse.demo.probe_fit import fit_plan
from pilothouse.demo.probe_plans import PLANS
from pilothouse.demo.smol import smol_folder
from pilothouse.errors import ConfigError, PilothouseError
from pilothouse.probes.build import FittedProbe, write_probe

LAYERS = (5, 8, 11, 14, 17, 20, 23, 26)
"""Layers of 30; the first see little but words, the last turn towards the next token."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def probes(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all unless said.")] = None,
    out: Annotated[Path, typer.Option(help="Where the probes' folders lie.")] = Path(
        "probes/smol/probes"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of resamples and controls.")] = 0,
) -> None:
    """Fit, calibrate and measure the probes, and write their folders with cards."""
    try:
        wanted = _known(names or list(PLANS))
        activations = Activations(smol_folder(_tell), LAYERS, cache_folder("activations"))
        reader = PartReader(activations, _tell)
        for name in wanted:
            fitted = fit_plan(PLANS[name], reader, seed)
            write_whole(fitted, out / name)
            _tell(summary(fitted))
    except PilothouseError as error:
        typer.echo(f"pilothouse: {error}", err=True)
        raise typer.Exit(2) from error


def write_whole(fitted: FittedProbe, folder: Path) -> None:
    """Move the probe's folder into the place of an older one in one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as room:
        made, old = Path(room) / "made", Path(room) / "old"
        write_probe(fitted, made)
        if folder.exists():
            folder.rename(old)
        made.rename(folder)


def summary(fitted: FittedProbe) -> str:
    """Return a line for each test and scorer."""
    evaluation = fitted.evaluation
    lines = [
        f"{evaluation.probe}: layer {list(evaluation.chosen.layers)}, "
        f"C {evaluation.chosen.ridge_c:g}, "
        f"AUROC on sources left out {evaluation.chosen.objective:.3f}"
    ]
    for each in evaluation.transfers:
        shown = ", ".join(
            f"{name} {score.auroc.estimate:.3f}" for name, score in each.scores.items()
        )
        lines.append(f"  {each.name}, {each.form}: {shown}")
    return "\n".join(lines)


def _known(names: list[str]) -> list[str]:
    unknown = [each for each in names if each not in PLANS]
    if unknown:
        raise ConfigError(where="names", got=unknown, want=f"some of {list(PLANS)}")
    return names


def _tell(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    sys.exit(app())
