"""What `pilothouse vector fit` prints of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import typer
from rich.console import Console
from rich.table import Table

from pilothouse.training.card import figures_row, profile_line
from pilothouse.training.report import CONTROLS, Cell, FitReport

SHOWN_ROWS = 40
SHOWN = ("L", "scale", "effect", "moved", "ppl x", "kept", "KL>=", "facts")


def show(report: FitReport, out: Path) -> None:
    """Tables, findings, and the lines to use the vector by."""
    console = Console()
    for title, cells in ((report.search.kind, report.sweep), ("test", report.test.cells)):
        controls = tuple(
            control for control in CONTROLS if any(each.kind == control for each in cells)
        )
        head = (*SHOWN[:3], *controls, *SHOWN[3:])
        table = Table(*head, title=title, caption=_caption(report) if controls else None)
        ranked = sorted(
            (each for each in cells if each.kind == "fitted"), key=lambda each: -each.figures.effect
        )
        for each in ranked[:SHOWN_ROWS]:
            beside = [_mean_effect(report, each, cells, control) for control in controls]
            effect, *others = figures_row(each.figures)
            table.add_row(str(each.layer), f"{each.scale:g}", effect, *beside, *others)
        console.print(table)
    lines = [
        f"wrote     {out}: layer {report.chosen_layer}, strength {report.chosen_scale:g}",
        f"took      {_took(report)}",
        *(f"finding   {each}" for each in report.findings),
        *(f"note      {each}" for each in report.notes),
        f"use       vectors: {{{report.name}: {{path: {out}}}}} in pilothouse.yaml, and steer by",
        f"          {profile_line(report)}",
    ]
    typer.echo("\n".join(lines))


def _caption(report: FitReport) -> str:
    where = "each at its own best layer" if report.search.kind == "staged" else "at the same place"
    return f"random, shuffled: mean effect of the controls, {where}"


def _mean_effect(report: FitReport, cell: Cell, cells: Sequence[Cell], control: str) -> str:
    """Of the controls of a kind; a full sweep has them at every place."""
    anywhere = report.search.kind == "staged"
    beside = [
        each.figures.effect
        for each in cells
        if each.kind == control and (anywhere or (each.layer, each.scale) == _place(cell))
    ]
    return f"{fmean(beside):+.3g}"


def _place(cell: Cell) -> tuple[int, float]:
    return cell.layer, cell.scale


def _took(report: FitReport) -> str:
    seconds = sum(each.seconds for each in report.stages)
    parts = ", ".join(f"{each.name} {each.seconds:.0f} s" for each in report.stages)
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} ({parts})"
