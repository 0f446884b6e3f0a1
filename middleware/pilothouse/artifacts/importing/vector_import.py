"""`import_vector`: a foreign vector or transform file becomes our artefact.

A vector needs the mean lengths of what its site carries: the unit `residual` and
`limits.max_norm_ratio` are counted in them, so an operator gives them and nothing is guessed.

Shape suffixes: L layers, R rows of a capture, D width of the site.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.importing.source import locate
from pilothouse.artifacts.transform import MAIN_ARRAY, Transform, build_transform, save_transform
from pilothouse.artifacts.vector import build_vector, save_vector
from pilothouse.artifacts.vectors import read_foreign
from pilothouse.artifacts.vectors.reading import Floats, LayerChoice, Reading, ReadPickle, Wish
from pilothouse.artifacts.vectors.source import FETCH_AGAIN, layer_number, read_json
from pilothouse.artifacts.vectors.target import Target, check_target, target_of
from pilothouse.capture.reader import CaptureReader
from pilothouse.errors import ConfigError, argument
from pilothouse.output_dir import check_out
from pilothouse.types import PROJECTION_SITES, Site

NORMS = argument("norms")
MAX_NORMS_BYTES = 1 << 20
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
            raise ConfigError(
                where=argument("layers"),
                got=repr(word),
                want="N, N-M with N at most M, or N=TENSOR",
            )
        choices += [LayerChoice(number, match[3]) for number in range(first, last + 1)]
    return tuple(choices)


def _site(word: str | None) -> Site | None:
    for known in get_args(Site):
        if word == known:
            site: Site = known
            return site
    if word is not None:
        raise ConfigError(
            where=argument("site"), got=repr(word), want=f"one of {', '.join(get_args(Site))}"
        )
    return None


def _pickle_reader() -> ReadPickle:
    from pilothouse.artifacts.importing.pickled import read_torch  # torch takes seconds to import

    return read_torch


def build_source(
    name: str, reading: Reading, target: Target, residual_norms_L: Floats, created_by: str
) -> Source:
    """Return the vector or transform that a reading makes for a model.

    Args:
        name: the artefact's name.
        reading: what was read from the foreign file.
        target: what is known of the model.
        residual_norms_L: mean length of what the site carries, for the layers ascending.
        created_by: what the manifest says of its making.

    Raises:
        ArtefactError: numbers of another model, layers of different shapes, or a row of zeros.
    """
    check_target(reading, target)
    _check_alike(reading)
    layers = tuple(sorted(reading.layers))
    d_model = target.d_model
    if reading.site in PROJECTION_SITES and d_model is None:
        refuse(
            reading.place,
            "d_model",
            "nothing",
            f"the stream's width beside {reading.site}'s",
            f"say {argument('d_model', 'N')}, or {argument('model_config', 'config.json')}",
        )
    names = reading.layers[layers[0]]
    arrays = {each: np.stack([reading.layers[layer][each] for layer in layers]) for each in names}
    if reading.form == "vector":
        return build_vector(
            name,
            model_id=target.model_id,
            layers=layers,
            directions_LD=arrays["direction"],
            residual_norms_L=residual_norms_L,
            created_by=created_by,
            site=reading.site,
            d_model=d_model,
        )
    return build_transform(
        name,
        form=reading.form,
        model_id=target.model_id,
        layers=layers,
        arrays=arrays,
        residual_norms_L=residual_norms_L,
        created_by=created_by,
        site=reading.site,
        d_model=d_model,
    )


def _check_alike(reading: Reading) -> None:
    first = min(reading.layers)
    main = "direction" if reading.form == "vector" else MAIN_ARRAY[reading.form]
    for layer, arrays in sorted(reading.layers.items()):
        shape, wanted = arrays[main].shape, reading.layers[first][main].shape
        if shape != wanted:
            refuse(
                reading.place,
                reading.fields[layer],
                f"shape {list(shape)}",
                f"{list(wanted)} as layer {first} has",
                f"choose with {argument('layers')} the layers that go together",
            )
        if reading.form == "vector" and not arrays[main].any():
            refuse(
                reading.place,
                reading.fields[layer],
                "zeros",
                "a direction",
                f"leave layer {layer} out with {argument('layers')}; {FETCH_AGAIN}",
            )


def residual_norms(norms: str | None, layers: Sequence[int], site: Site) -> Floats:
    """Return residual_norms_L for the layers ascending.

    Args:
        norms: numbers with commas, one for each layer ascending; a JSON file {layer: number}; or
            the folder of a capture at the site.
        layers: the vector's layers, in any order.
        site: where in a layer the vector belongs.

    Raises:
        ConfigError: nothing given, or not one positive number for each layer.
    """
    wanted = sorted(layers)
    if norms is None:
        raise ConfigError(
            f"{NORMS}: got nothing, want the mean length of what {site} carries at layers "
            f"{wanted}: measure it with LLM.capture(prompts, layers={wanted}, sites=['{site}'], "
            "out=FOLDER) (docs/get-started/python-api.md) on a few hundred prompts of your "
            "traffic, and give "
            f"{argument('norms', 'FOLDER')}"
        )
    place = Path(norms)
    if place.is_dir():
        found = [_captured(place, layer, site) for layer in wanted]
    elif place.suffix == ".json":
        found = _in_file(place, wanted)
    else:
        found = _in_text(norms, wanted)
    norms_L = np.array(found, np.float32)
    if not (np.isfinite(norms_L) & (norms_L > 0)).all():
        raise ConfigError(f"{NORMS}: got {found}, want positive numbers")
    return norms_L


def _captured(folder: Path, layer: int, site: Site) -> float:
    total, count = 0.0, 0
    for rows_RD, _ in CaptureReader(folder).rows(layer, site):
        total += float(np.linalg.norm(rows_RD.astype(np.float64), axis=1).sum())
        count += len(rows_RD)
    if not count:
        raise ConfigError(f"{NORMS}: {folder} has no rows of {site} of layer {layer}")
    return total / count


def _in_file(place: Path, layers: Sequence[int]) -> list[float]:
    raw = read_json(place, MAX_NORMS_BYTES)
    by_layer = {layer_number(place, "layer", key): value for key, value in raw.items()}
    for layer in layers:
        value = by_layer.get(layer)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            refuse(
                place,
                str(layer),
                repr(value),
                "a positive number",
                'name each layer of the vector, {"3": 12.5, ...}',
            )
    return [float(by_layer[layer]) for layer in layers]


def _in_text(text: str, layers: Sequence[int]) -> list[float]:
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{NORMS}: got {text!r}, want numbers with commas, a .json file, or a capture's folder"
        ) from None
    if len(found) != len(layers):
        raise ConfigError(
            f"{NORMS}: got {len(found)} numbers, want one for each of layers {list(layers)}"
        )
    return found
