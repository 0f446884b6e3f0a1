"""`pilothouse vector`: what a vector's folder holds, and vectors of other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pilothouse.cli.vector_import import import_vector
from pilothouse.errors import ArtefactError
from pilothouse.model.vector import Vector, load_vector

app = typer.Typer(no_args_is_help=True, help="Import and look at steering vectors.")


@app.callback()
def vector() -> None:
    """Import and look at steering vectors."""


app.command("import")(import_vector)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A vector's folder, with manifest.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check a vector and print its layers, lengths and digest."""
    try:
        loaded = load_vector(folder.resolve().name, folder)
    except ArtefactError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(loaded.manifest.model_dump(mode="json"), indent=2))
        return
    typer.echo("\n".join(_lines(loaded)))


def _lines(vector: Vector) -> list[str]:
    lines = [
        f"vector    {vector.manifest.name}",
        f"model     {vector.model_id}, d_model {vector.d_model}",
        f"digest    {vector.digest}",
        f"made by   {vector.manifest.created_by}",
        "",
        f"{vector.site:<12}{'|v|':>12}{'mean |h|':>12}{'|v| / |h|':>12}",
    ]
    for layer in vector.layers:
        length = float(np.linalg.norm(vector.direction_D(layer)))
        norm = vector.residual_norm(layer)
        lines.append(f"layer {layer:<6}{length:>12.4g}{norm:>12.4g}{length / norm:>12.4g}")
    return lines
