"""`pilothouse vector import`: a foreign vector or transform file becomes our artefact."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import typer

from pilothouse.cli.exits import exits
from pilothouse.cli.norms import residual_norms
from pilothouse.cli.source import locate
from pilothouse.errors import ConfigError
from pilothouse.model.artefact import MANIFEST_FILE
from pilothouse.model.catalogue import Source
from pilothouse.model.formats import FORMATS, read_foreign
from pilothouse.model.formats.build import build_source
from pilothouse.model.formats.reading import LayerChoice, ReadPickle, Wish
from pilothouse.model.formats.target import target_of
from pilothouse.model.transform import Transform, save_transform
from pilothouse.model.vector import save_vector
from pilothouse.output_dir import check_out
from pilothouse.progress import waiting
from pilothouse.types import Site

LAYERS = re.compile(r"(\d{1,4})(?:-(\d{1,4})|=(.+))?")
FORMAT_HELP = "; ".join(f"{each.name}: {each.about}" for each in FORMATS.values())


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written, and what its operator should know."""

    source: Source
    notes: tuple[str, ...]


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
    with exits():
        wish = Wish(
            layers=_layers(layer or []), site=_site(site), width=width, feature=feature, top=top,
            read_pickle=_pickle_reader() if allow_pickle_weights else None,
        )  # fmt: skip
        check_out(out)
        with waiting(f"reading {source}"):
            found = locate(source)
            reading = read_foreign(format_name, found.place, wish)
        target = target_of(model_id, d_model, model_config)
        norms_L = residual_norms(norms, tuple(reading.layers), reading.site)
        what = found.label or reading.place.name
        created_by = f"pilothouse vector import of {what} ({format_name})"[:512]
        name = out.resolve().name
        made = build_source(name, reading, target, norms_L, created_by)
        _save(made, out)
    _print(Imported(made, reading.notes), out, as_json)


def _layers(words: list[str]) -> tuple[LayerChoice, ...]:
    choices: list[LayerChoice] = []
    for word in words:
        match = LAYERS.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or last < first:
            raise ConfigError(f"--layer: got {word!r}, want N, N-M with N at most M, or N=TENSOR")
        choices += [LayerChoice(number, match[3]) for number in range(first, last + 1)]
    return tuple(choices)


def _site(word: str | None) -> Site | None:
    for known in get_args(Site):
        if word == known:
            site: Site = known
            return site
    if word is not None:
        raise ConfigError(f"--site: got {word!r}, want one of {', '.join(get_args(Site))}")
    return None


def _pickle_reader() -> ReadPickle:
    from pilothouse.cli.pickled import read_torch  # torch takes seconds to import

    return read_torch


def _save(source: Source, out: Path) -> None:
    if isinstance(source, Transform):
        save_transform(source, out)
    else:
        save_vector(source, out)


def _print(imported: Imported, out: Path, as_json: bool) -> None:
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
