"""`pilothouse vector show`: prints what the folder of a vector or transform holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pilothouse.artifacts.catalog import Source, load_source
from pilothouse.artifacts.transform import Transform
from pilothouse.artifacts.vector import Vector
from pilothouse.cli.common import exits


def show(
    folder: Annotated[
        Path, typer.Argument(help="The folder of a vector or transform, with manifest.json.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check a vector or transform and print its layers, sizes and digest."""
    with exits():
        loaded = load_source(folder.resolve().name, folder)
    if as_json:
        typer.echo(json.dumps(loaded.manifest.model_dump(mode="json"), indent=2))
        return
    table = _lengths(loaded) if isinstance(loaded, Vector) else _reach(loaded)
    typer.echo("\n".join([*_head(loaded), "", *table]))


def _head(source: Source) -> list[str]:
    kind = "vector" if isinstance(source, Vector) else source.form
    return [
        f"{kind:<10}{source.manifest.name}",
        f"model     {source.model_id}, d_model {source.d_model}",
        f"digest    {source.digest}",
        f"made by   {source.manifest.created_by}",
    ]


def _lengths(vector: Vector) -> list[str]:
    lines = [f"{vector.site:<12}{'|v|':>12}{'mean |h|':>12}{'|v| / |h|':>12}"]
    for layer in vector.layers:
        length = float(np.linalg.norm(vector.direction_D(layer)))
        norm = vector.residual_norm(layer)
        lines.append(f"layer {layer:<6}{length:>12.4g}{norm:>12.4g}{length / norm:>12.4g}")
    return lines


def _reach(transform: Transform) -> list[str]:
    lines = [f"{transform.site:<12}{'mean |h|':>12}   what it touches"]
    for layer in transform.layers:
        norm = transform.residual_norm(layer)
        lines.append(f"layer {layer:<6}{norm:>12.4g}   {_touched(transform, layer)}")
    return lines


def _touched(transform: Transform, layer: int) -> str:
    arrays = transform.at(layer)
    if transform.form == "diagonal":
        touched = np.count_nonzero((arrays["weight"] != 0.0) | (arrays["bias"] != 0.0))
        return f"{touched} of {transform.width} dimensions"
    if transform.form == "lowrank":
        stretch = np.linalg.norm(arrays["write"].T @ arrays["read"], ord=2)
        return f"{transform.manifest.rank} rows, the largest stretch {stretch:.4g}"
    return f"{transform.manifest.rank} of {transform.width} directions"
