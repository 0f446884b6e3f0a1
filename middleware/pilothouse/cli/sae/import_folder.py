"""`pilothouse sae import`: turns an SAE of any known layout into a folder of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pilothouse import artifacts
from pilothouse.artifacts.folder import MANIFEST_FILE
from pilothouse.artifacts.importing.sae_import import Measure
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.cli.common import exits
from pilothouse.cli.sae.measure import Captured, Measured, measure
from pilothouse.cli.sae.option import (
    AverageNorm,
    Centred,
    FormatName,
    LayerNumber,
    ModelId,
    SiteName,
    sae_hints,
)
from pilothouse.errors import ConfigError, EngineError, RequestError
from pilothouse.progress import waiting
from pilothouse.types import Tap


def import_sae(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="The SAE's folder or a file in it, or hf://..."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty. Names the SAE.")],
    format_name: FormatName = None,
    model_id: ModelId = None,
    layer: LayerNumber = None,
    site: SiteName = None,
    average_norm: AverageNorm = None,
    centred: Centred = None,
    allow_pickle_weights: Annotated[
        bool, typer.Option(help="Read pickled tensors by a weights-only load.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--measure",
            help="Prompts, one on each line: measures features' maxima "
            "and the mean length of what the tap carries.",
        ),
    ] = None,
    served: Annotated[
        str | None, typer.Option("--model", help="The model that is run for --measure.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="In which that model runs, as vLLM's flag.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Read an SAE and write it in one layout with its provenance; nothing in it is executed."""
    noted: list[Measured] = []
    with exits(RequestError, EngineError):
        imported = artifacts.import_sae(
            source,
            out,
            format_name=format_name,
            told=sae_hints(model_id, layer, site, average_norm, centred),
            allow_pickle_weights=allow_pickle_weights,
            measure=_measure(prompts, served, dtype, noted),
            waiting=waiting,
        )
    if as_json:
        for note in imported.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(json.dumps(imported.manifest.model_dump(mode="json"), indent=2))
        return
    typer.echo("\n".join(_lines(imported.sae, imported.notes, noted, out)))


class _NotedRows:
    """Captured rows; their mean length is noted when it is asked for."""

    def __init__(self, captured: Captured, noted: list[Measured]) -> None:
        self._captured, self._noted = captured, noted

    def average_norm(self) -> float:
        measured = self._captured.measured()
        self._noted.append(measured)
        return measured.average_norm

    def largest_codes(self, sae: Sae) -> NDArray[np.float64]:
        return self._captured.largest_codes(sae)


def _measure(
    prompts: Path | None, served: str | None, dtype: str, noted: list[Measured]
) -> Measure | None:
    if (prompts is None) != (served is None):
        raise ConfigError("--measure PROMPTS and --model MODEL go together: give both")
    if prompts is None or served is None:
        return None

    @contextmanager
    def measuring(tap: Tap, width: int) -> Iterator[_NotedRows]:
        with measure(served, tap, width, prompts, dtype) as captured:
            yield _NotedRows(captured, noted)

    return measuring


def _lines(sae: Sae, notes: Sequence[str], measured: Sequence[Measured], out: Path) -> list[str]:
    maxima = (
        []
        if sae.max_act_M is None
        else [f"maxima    {int((sae.max_act_M > 0).sum())} of {sae.num_features} features ever on"]
    )
    return [
        f"wrote     {out / MANIFEST_FILE}",
        f"form      {sae.form}, {sae.num_features} features, width {sae.width}, at {sae.tap.site} "
        f"of layer {sae.tap.layer} of {sae.model_id}",
        f"digest    {sae.digest}",
        *(f"measured  {each}" for each in measured),
        *maxima,
        *(f"note      {note}" for note in notes),
        f"use       saes: {{{sae.name}: {{path: {out}}}}} in pilothouse.yaml",
    ]
