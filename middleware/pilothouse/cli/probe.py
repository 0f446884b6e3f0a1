"""`pilothouse probe`: fits, measures and shows probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.aggregate import described
from pilothouse.artifacts.manifest import Readout
from pilothouse.artifacts.probe import Probe, load_probe
from pilothouse.cli import probe_eval, probe_fit
from pilothouse.cli.common import exits

app = typer.Typer(
    pretty_exceptions_enable=False, no_args_is_help=True, help="Fit, measure and look at probes."
)


@app.callback()
def probe() -> None:
    """Fit, measure and look at probes."""


MORE = {"allow_extra_args": True}
app.command("fit", epilog=probe_fit.EPILOG, context_settings=MORE)(probe_fit.fit_probe)
app.command("eval", epilog=probe_eval.EPILOG, context_settings=MORE)(probe_eval.eval_probe)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A probe's folder, with manifest.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check a probe and print its readouts, calibration, thresholds and digest."""
    with exits():
        loaded = load_probe(folder.resolve().name, folder)
    if as_json:
        typer.echo(json.dumps(loaded.manifest.model_dump(mode="json"), indent=2))
        return
    typer.echo("\n".join(_lines(loaded)))


def _lines(probe: Probe) -> list[str]:
    lines = [
        f"probe     {probe.manifest.name}",
        f"model     {probe.model_id}, d_model {probe.d_model}",
        f"reads     {probe.site} at layers {', '.join(map(str, probe.layers))}",
        f"head      {_head(probe)}",
        f"digest    {probe.digest}",
        f"made by   {probe.manifest.created_by}",
    ]
    for name, readout in probe.readouts.items():
        lines += _readout_lines(name, readout, is_default=name == probe.default_readout)
    return lines


def _head(probe: Probe) -> str:
    sizes = probe.head.model_dump(mode="json", exclude={"kind"})
    return ", ".join([probe.head.kind, *(f"{name} {size}" for name, size in sizes.items())])


def _readout_lines(name: str, readout: Readout, *, is_default: bool) -> list[str]:
    summed = described(readout.aggregate.spec)
    lines = [
        "",
        f"readout   {name}{' (default)' if is_default else ''}: {summed} over {readout.scope}",
        f"  value   sigmoid({readout.slope:.6g} * logit + {readout.offset:.6g}), "
        f"prior {readout.prior:.4g}",
    ]
    if readout.evaluation is not None:
        for label, each in (
            ("AUROC ", readout.evaluation.auroc),
            ("TPR@1%", readout.evaluation.tpr_at_fpr_1_percent),
        ):
            lines.append(f"  {label}  {each.estimate:.4f} [{each.low:.4f}, {each.high:.4f}]")
    lines += [
        f"  at fpr {each.target_fpr:g}: value >= {each.value:.9g}, bound {each.fpr_upper:.3g} "
        f"on {each.n} negatives"
        + ("" if each.length_bucket is None else f", up to {each.length_bucket} tokens")
        for each in readout.thresholds
    ]
    return lines
