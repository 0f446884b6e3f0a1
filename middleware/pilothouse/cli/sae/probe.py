"""`pilothouse sae probe`: writes a feature of an SAE as a probe that policies can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.artifacts.importing.source import read_sae
from pilothouse.artifacts.probe import save_probe
from pilothouse.cli.common import exits
from pilothouse.cli.sae.option import (
    AverageNorm,
    Centred,
    FormatName,
    LayerNumber,
    ModelId,
    SiteName,
    noted,
    sae_hints,
)
from pilothouse.edits.feature import labelled
from pilothouse.edits.feature_probe import feature_probe
from pilothouse.errors import EngineError, RequestError
from pilothouse.output_dir import check_out


def probe(
    source: Annotated[
        str, typer.Argument(metavar="DIR", help="An SAE's folder of any layout, or hf://...")
    ],
    feature: Annotated[str, typer.Option(help="The feature's number, or its label.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty. Names the probe.")],
    format_name: FormatName = None,
    model_id: ModelId = None,
    layer: LayerNumber = None,
    site: SiteName = None,
    average_norm: AverageNorm = None,
    centred: Centred = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Write one feature as a probe: 0.5 where it turns on, 0.98 at its largest code."""
    with exits(RequestError, EngineError):
        check_out(out)
        sae = noted(
            read_sae(source, format_name, sae_hints(model_id, layer, site, average_norm, centred))
        )
        number = int(feature) if feature.isdecimal() else labelled(feature, sae)
        about = f"pilothouse sae probe, feature {number} of {sae.name} {sae.digest[:12]}"
        made = feature_probe(out.resolve().name, sae, number, about)
        save_probe(made, out)
    if as_json:
        typer.echo(json.dumps(made.manifest.model_dump(mode="json"), indent=2))
        return
    label = f" ({sae.labels[number]})" if number in sae.labels else ""
    typer.echo(f"{out}: feature {number}{label} at {sae.site} of layer {sae.tap.layer}")
    typer.echo("not calibrated: compare with a number, 0.5 is where the feature turns on")
