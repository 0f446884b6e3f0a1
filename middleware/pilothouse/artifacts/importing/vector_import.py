"""`import_vector`: a foreign vector or transform file becomes our artefact."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.importing.norms import residual_norms
from pilothouse.artifacts.importing.source import locate
from pilothouse.artifacts.transform import Transform, save_transform
from pilothouse.artifacts.vector import save_vector
from pilothouse.artifacts.vectors import read_foreign
from pilothouse.artifacts.vectors.build import build_source
from pilothouse.artifacts.vectors.reading import LayerChoice, ReadPickle, Wish
from pilothouse.artifacts.vectors.target import target_of
from pilothouse.errors import ConfigError
from pilothouse.output_dir import check_out
from pilothouse.types import Site

LAYERS = re.compile(r"(\d{1,4})(?:-(\d{1,4})|=(.+))?")


@dataclass(frozen=True, slots=True)
class ImportedVector:
    """The artefact that was written, and what its operator should know."""

    source: Source
    notes: tuple[str, ...]


def import_vector(
    source: str | Path,
    out: str | Path,
    *,
    format_name: str,
    model_id: str,
    norms: str | None,
    d_model: int | None = None,
    model_config: str | Path | None = None,
    layers: Sequence[str] = (),
    site: str | None = None,
    width: int | None = None,
    feature: int | None = None,
    top: int | None = None,
    allow_pickle_weights: bool = False,
) -> ImportedVector:
    """Turn a foreign vector or transform into an artefact; nothing in the file is executed.

    Args:
        source: the file or folder, local or `hf://...`.
        out: the folder to write, new or empty. It names the artefact.
        format_name: one of `pilothouse.artifacts.vectors.FORMATS`.
        model_id: the served model's name, as other artefacts say it.
        norms: mean lengths at the layers: numbers with commas, a .json, or a capture's folder.
        d_model: width of the stream.
        model_config: the model's config.json: type, layers and widths are compared with it.
        layers: `N`, `N-M` or `N=TENSOR`.
        site: where the numbers belong.
        width: of the site (austeer).
        feature: which one (snmf).
        top: how many units (austeer).
        allow_pickle_weights: read pickled tensors by a weights-only load.

    Raises:
        ConfigError: arguments that do not go with each other or with the file.
        ArtefactError: a file that cannot be read as this format.
    """
    wish = Wish(
        layers=_layers(layers),
        site=_site(site),
        width=width,
        feature=feature,
        top=top,
        read_pickle=_pickle_reader() if allow_pickle_weights else None,
    )
    out = Path(out)
    check_out(out)
    found = locate(str(source))
    reading = read_foreign(format_name, found.place, wish)
    target = target_of(model_id, d_model, None if model_config is None else Path(model_config))
    norms_L = residual_norms(norms, tuple(reading.layers), reading.site)
    what = found.label or reading.place.name
    created_by = f"pilothouse vector import of {what} ({format_name})"[:512]
    made = build_source(out.resolve().name, reading, target, norms_L, created_by)
    if isinstance(made, Transform):
        save_transform(made, out)
    else:
        save_vector(made, out)
    return ImportedVector(made, reading.notes)


def _layers(words: Sequence[str]) -> tuple[LayerChoice, ...]:
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
    from pilothouse.artifacts.importing.pickled import read_torch  # torch takes seconds to import

    return read_torch
