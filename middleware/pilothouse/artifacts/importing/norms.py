"""Mean lengths of what a site carries, from where an operator has them.

They are what the unit `residual` and `limits.max_norm_ratio` are counted in, so nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.vectors.reading import Floats
from pilothouse.artifacts.vectors.source import layer_number, read_json
from pilothouse.capture.reader import CaptureReader
from pilothouse.errors import ConfigError
from pilothouse.types import Site

MAX_NORMS_BYTES = 1 << 20


def residual_norms(norms: str | None, layers: Sequence[int], site: Site) -> Floats:
    """residual_norms_L for the layers ascending.

    Args:
        norms: numbers with commas, one for each layer ascending; a JSON file {layer: number}; or
            the folder of a capture at the site.

    Raises:
        ConfigError: nothing given, or not one positive number for each layer.
    """
    wanted = sorted(layers)
    if norms is None:
        raise ConfigError(
            f"--norms: got nothing, want the mean length of what {site} carries at layers "
            f"{wanted}: measure it with LLM.capture(prompts, layers={wanted}, sites=['{site}'], "
            "out=FOLDER) (docs/get-started/python-api.md) on a few hundred prompts of your "
            "traffic, and give "
            "--norms FOLDER"
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
        raise ConfigError(f"--norms: got {found}, want positive numbers")
    return norms_L


def _captured(folder: Path, layer: int, site: Site) -> float:
    total, count = 0.0, 0
    for rows_RD, _ in CaptureReader(folder).rows(layer, site):
        total += float(np.linalg.norm(rows_RD.astype(np.float64), axis=1).sum())
        count += len(rows_RD)
    if not count:
        raise ConfigError(f"--norms: {folder} has no rows of {site} of layer {layer}")
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
            f"--norms: got {text!r}, want numbers with commas, a .json file, or a capture's folder"
        ) from None
    if len(found) != len(layers):
        raise ConfigError(
            f"--norms: got {len(found)} numbers, want one for each of layers {list(layers)}"
        )
    return found
