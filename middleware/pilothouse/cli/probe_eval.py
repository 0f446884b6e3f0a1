"""`pilothouse probe eval`: a probe on another file of labelled texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.common import ChatTemplateKwargs, exits, template_kwargs
from pilothouse.cli.probe_fit import (
    Columns,
    Negative,
    Positive,
    interval,
    kept_on_interrupt,
    pairs,
)
from pilothouse.probes.report import FiredReport
from pilothouse.progress import waiting
from pilothouse.training.probe_eval import ProbeEval, prepare_probe_eval

EPILOG = """Columns, labels, model and its flags are those of the probe's recipe.json where no
option says otherwise. What follows -- goes to vLLM. Exit 1 where a threshold does not hold."""


def eval_probe(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A probe's folder, with manifest.json.")],
    data: Annotated[
        Path, typer.Argument(metavar="FILE", help="Labelled texts, as for `probe fit`.")
    ],
    model: Annotated[
        str | None, typer.Option(help="The model's folder or name; else the recipe's.")
    ] = None,
    column: Columns = None,
    positive: Positive = None,
    negative: Negative = None,
    dtype: Annotated[
        str | None, typer.Option(help="What the model computes in; else the recipe's.")
    ] = None,
    chat_template_kwargs: ChatTemplateKwargs = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of activations; else Pilothouse's cache.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a probe on another file: ranking, rates, calibration, and its thresholds."""
    with exits():
        from pilothouse.training.engine_settings import engine_settings

        given = {
            "model": model,
            "columns": pairs("--column", column or ()),
            "positive": tuple(positive or ()),
            "negative": tuple(negative or ()),
            "engine": engine_settings(context.args, dtype, verb="probe eval"),
            "chat_template_kwargs": template_kwargs(chat_template_kwargs),
        }
        with waiting("reading the texts with the model's tokenizer"):
            prepared = prepare_probe_eval(folder, data, given, cache, seed)
        for note in prepared.notes:
            typer.echo(note, err=True)
        with kept_on_interrupt() as phase:
            found = prepared.run(phase)
    typer.echo(found.model_dump_json(indent=2) if as_json else "\n".join(_lines(found)))
    raise typer.Exit(1 if found.findings else 0)


def _lines(found: ProbeEval) -> Iterator[str]:
    file = found.file
    yield f"probe     {found.probe} ({found.digest[:12]})"
    yield f"file      {file.name}: {file.rows} rows, {file.positives} positive"
    for name, each in found.readouts.items():
        yield f"readout   {name}{' (default)' if name == found.default_readout else ''}"
        if each.unscored:
            yield f"  unscored  {each.unscored} rows have no token in its scope"
        if each.figures is not None:
            figures = each.figures
            yield f"  AUROC     {interval(figures.auroc)}"
            yield f"  AUPRC     {interval(figures.auprc)}"
            for rate in figures.tprs:
                few = "" if rate.is_supported else ", with too few negatives to speak of it"
                yield f"  TPR       {interval(rate.tpr)} at {rate.target_fpr:.1%} FPR{few}"
            if figures.ece is not None:
                yield f"  ECE       {figures.ece:.3f}"
        for fired in each.fired:
            yield f"  fires     {_fired(fired)}"
    for finding in found.findings:
        yield f"finding   {finding}"


def _fired(report: FiredReport) -> str:
    kind = "positives" if report.label else "negatives"
    return (
        f"at fpr {report.target_fpr:g} on {report.fired} of {report.n} {kind} "
        f"({report.fired / report.n:.3f}, 95% bound {report.upper:.3f})"
    )
