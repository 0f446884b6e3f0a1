"""From a reading to our artefact, or to an error; nothing in between.

Shapes: L layers, D width of the site.
"""

from __future__ import annotations

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.transform import MAIN_ARRAY, build_transform
from pilothouse.artifacts.vector import build_vector
from pilothouse.artifacts.vectors.reading import Floats, Reading
from pilothouse.artifacts.vectors.source import FETCH_AGAIN
from pilothouse.artifacts.vectors.target import Target, check_target
from pilothouse.types import PROJECTION_SITES


def build_source(
    name: str, reading: Reading, target: Target, residual_norms_L: Floats, created_by: str
) -> Source:
    """The vector or transform that a reading makes for a model.

    Args:
        residual_norms_L: mean length of what the site carries, for the layers ascending.

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
            "say --d-model N, or --model-config config.json",
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
                "choose with --layer the layers that go together",
            )
        if reading.form == "vector" and not arrays[main].any():
            refuse(
                reading.place,
                reading.fields[layer],
                "zeros",
                "a direction",
                f"leave layer {layer} out with --layer; {FETCH_AGAIN}",
            )
