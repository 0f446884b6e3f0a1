"""`pilothouse vector import`: makes an artefact of a foreign vector or transform file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pilothouse import artifacts
from pilothouse.artifacts.folder import MANIFEST_FILE
from pilothouse.artifacts.transform import Transform
from pilothouse.artifacts.vectors import FORMATS
from pilothouse.cli.common import exits
from pilothouse.progress import waiting

FORMAT_HELP = "; ".join(f"{each.name}: {each.about}" for each in FORMATS.values())


def import_vector(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="The foreign file or folder, local or hf://...")
    ],
    format_name: Annotated[str, typer.Option("--format", help=FORMAT_HELP)],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty. Names the artefact.")],
    model_id: Annotated[str, typer.Option(help="The served model's name, as other artefacts say.")],
    d_model: Annotated[int | None, typer.Option(min=1, help="Width of the stream.")] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="The model's config.json: compares type, layers, widths.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="N, N-M or N=TENSOR; may stand several times.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Where the numbers belong.")] = None,
    norms: Annotated[
        str | None,
        typer.Option(help="Mean lengths at the layers: numbers, a .json, or a capture's folder."),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of the site (austeer).")] = None,
    feature: Annotated[int | None, typer.Option(min=0, help="Which feature (snmf).")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="How many units (austeer).")] = None,
    allow_pickle_weights: Annotated[
        bool, typer.Option(help="Read pickled tensors by a weights-only load.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print manifest and notes.")] = False,
) -> None:
    """Turn a foreign vector or transform into an artefact; nothing in the file is executed."""
    with exits(), waiting(f"reading {source}"):
        imported = artifacts.import_vector(
            source,
            out,
            format_name=format_name,
            model_id=model_id,
            norms=norms,
            d_model=d_model,
            model_config=model_config,
            layers=layer or [],
            site=site,
            width=width,
            feature=feature,
            top=top,
            allow_pickle_weights=allow_pickle_weights,
        )
    _print(imported, out, as_json)


def _print(imported: artifacts.ImportedVector, out: Path, as_json: bool) -> None:
    source, manifest = imported.source, imported.source.manifest
    if as_json:
        fields = {"manifest": manifest.model_dump(mode="json"), "notes": list(imported.notes)}
        typer.echo(json.dumps(fields, indent=2))
        return
    form = source.form if isinstance(source, Transform) else "vector"
    layers = ", ".join(map(str, source.layers))
    lines = [
        f"wrote     {out / MANIFEST_FILE}",
        f"form      {form}, width {source.width}, at {source.site} of layers {layers}",
        f"digest    {source.digest}",
        *(f"note      {note}" for note in imported.notes),
        f"use       vectors: {{{source.name}: {{path: {out}}}}} in pilothouse.yaml",
    ]
    typer.echo("\n".join(lines))
