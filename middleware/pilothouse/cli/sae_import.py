"""`pilothouse sae import`: an SAE of any layout that is read becomes a folder of our own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pilothouse.cli.exits import exits
from pilothouse.cli.sae_measure import Measured, measure
from pilothouse.cli.sae_option import (
    AverageNorm,
    Centred,
    FormatName,
    LayerNumber,
    ModelId,
    SiteName,
    told,
)
from pilothouse.cli.sae_pickle import converted, pickle_of
from pilothouse.cli.source import locate_sae
from pilothouse.errors import ConfigError, EngineError, RequestError
from pilothouse.model.artefact import MANIFEST_FILE, open_plain, refuse
from pilothouse.model.links import followed
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.model.sae.detect import LAYER_FILE, detect_format
from pilothouse.model.sae.formats import FEATURES_FILE, LABELS_FILE, load_sae
from pilothouse.model.sae.mapped import write_safetensors
from pilothouse.model.sae.matrix import Matrix
from pilothouse.model.sae.own import NAME, SaeManifest, SaeSource, save_own
from pilothouse.model.sae.told import Told, UnknownNorm
from pilothouse.output_dir import MADE, atomic_output_dir, check_out
from pilothouse.progress import waiting

CONVERT = (
    "add --allow-pickle-weights to read its tensors by a weights-only load; nothing in the file is "
    "executed"
)
MAX_FILES = 64


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
        typer.Option("--measure", help="Prompts, one on each line: measures features' maxima "
                     "and the mean length of what the tap carries."),
    ] = None,
    served: Annotated[
        str | None, typer.Option("--model", help="The model that is run for --measure.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="In which that model runs, as vLLM's flag.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:  # fmt: skip
    """Read an SAE and write it in one layout with its provenance; nothing in it is executed."""
    with exits(RequestError, EngineError):
        check_out(out)
        wish = told(model_id, layer, site, average_norm, centred)
        with atomic_output_dir(out) as room:
            with waiting(f"reading {source}"):
                found = locate_sae(source, format_name, layer, pickles=allow_pickle_weights)
            folder = found.place
            layout = format_name or detect_format(folder)
            with waiting(f"reading {source}"):
                read = _readable(folder, layout, wish, room, allow_pickle_weights)
            name = out.resolve().name
            loaded, measured = _loaded(name, read, layout, wish, (prompts, served, dtype))
            made = room / MADE
            with waiting(f"writing {out}"):
                about = SaeSource(
                    place=found.label or source, format=layout, revision=found.revision,
                    files=_digests(folder, wish),
                )  # fmt: skip
                manifest = _write(loaded, made, about)
                written = load_sae(name, made, NAME)
    if as_json:
        for note in loaded.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(json.dumps(manifest.model_dump(mode="json"), indent=2))
        return
    typer.echo("\n".join(_lines(written, loaded.notes, measured, out)))


def _readable(folder: Path, layout: str, wish: Told, room: Path, may_unpickle: bool) -> Path:
    """The folder itself, or another one with safetensors in place of its pickle."""
    pickle = pickle_of(folder, layout, wish.layer)
    if pickle is None:
        return folder
    if not may_unpickle:
        refuse(pickle, "file", "a pickle", "leave to read one", CONVERT)
    return converted(pickle, room)


def _loaded(
    name: str, folder: Path, layout: str, wish: Told, run: tuple[Path | None, str | None, str]
) -> tuple[Sae, Measured | None]:
    prompts, served, dtype = run
    if (prompts is None) != (served is None):
        raise ConfigError("--measure PROMPTS and --model MODEL go together: give both")
    if prompts is None or served is None:
        with waiting(f"reading {folder}"):
            return load_sae(name, folder, layout, wish), None
    needs_norm = False
    with waiting(f"reading {folder}"):
        try:
            loaded = load_sae(name, folder, layout, wish)
        except UnknownNorm:
            # Any norm will do to learn where the SAE sits.
            loaded = load_sae(name, folder, layout, wish._replace(average_norm=1.0))
            needs_norm = True
    with measure(served, loaded.tap, loaded.width, prompts, dtype) as captured:
        with waiting("measuring lengths"):
            measured = captured.measured()
        norm = measured.average_norm if wish.average_norm is None else wish.average_norm
        if needs_norm:
            loaded = load_sae(name, folder, layout, wish._replace(average_norm=norm))
        with waiting("measuring the features' largest codes"):
            maxima_M = captured.largest_codes(loaded)
        return replace(loaded, max_act_M=maxima_M, average_norm=norm), measured


def _digests(folder: Path, wish: Told) -> dict[str, str]:
    """SHA-256 of the folder's files, of the layers' files that of the layer alone."""
    found: dict[str, str] = {}
    for place in sorted(folder.rglob("*"))[:MAX_FILES]:
        layered = LAYER_FILE.fullmatch(place.name)
        is_other = layered is not None and int(layered[1]) != wish.layer
        is_ours = any(part.startswith(".") for part in place.relative_to(folder).parts)
        leads_away = place.is_symlink() and followed(place) is None
        if leads_away or not place.is_file() or is_other or is_ours:
            continue
        state = hashlib.sha256()
        with open_plain(place) as file:
            while part := file.read(1 << 20):
                state.update(part)
        found[str(place.relative_to(folder))[:256]] = state.hexdigest()
    return found


def _write(sae: Sae, folder: Path, source: SaeSource) -> SaeManifest:
    created_by = f"pilothouse sae import of {source.place} ({source.format})"[:512]
    manifest = save_own(sae, folder, source, created_by)
    if sae.max_act_M is not None:
        maxima_M = Matrix(sae.max_act_M.astype(np.float32))
        write_safetensors(folder / FEATURES_FILE, {"max_act": maxima_M})
    if sae.labels:
        labels = {str(key): label for key, label in sorted(sae.labels.items())}
        text = json.dumps(labels, indent=2, ensure_ascii=False)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def _lines(sae: Sae, notes: Sequence[str], measured: Measured | None, out: Path) -> list[str]:
    maxima = [] if sae.max_act_M is None else [
        f"maxima    {int((sae.max_act_M > 0).sum())} of {sae.num_features} features ever on"
    ]  # fmt: skip
    return [
        f"wrote     {out / MANIFEST_FILE}",
        f"form      {sae.form}, {sae.num_features} features, width {sae.width}, at {sae.tap.site} "
        f"of layer {sae.tap.layer} of {sae.model_id}",
        f"digest    {sae.digest}",
        *([f"measured  {measured}"] if measured is not None else []),
        *maxima,
        *(f"note      {note}" for note in notes),
        f"use       saes: {{{sae.name}: {{path: {out}}}}} in pilothouse.yaml",
    ]
