"""What a reader found in a foreign file, and what its caller wished for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import TransformForm
from pilothouse.types import Site

Floats = NDArray[np.float32]
Form = Literal["vector"] | TransformForm
LayerArrays = Mapping[str, Floats]
"""Arrays of one layer: `direction` [D] of a vector, else those of `transform.shapes_of`."""

ReadPickle = Callable[[Path], object]
"""Reads a PyTorch file by a weights-only load; tensors come as arrays, objects as dicts."""


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """One layer, and the name of its tensor where the file has names."""

    layer: int
    tensor: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator said beside the file. None and () mean: as the file says.

    `read_pickle` is set only by the offline verb, when pickled weights were allowed.
    """

    layers: tuple[LayerChoice, ...] = ()
    site: Site | None = None
    width: int | None = None
    feature: int | None = None
    top: int | None = None
    read_pickle: ReadPickle | None = None

    @property
    def given(self) -> frozenset[str]:
        """The names of the options that were given."""
        values = {
            "layer": self.layers or None,
            "site": self.site,
            "width": self.width,
            "feature": self.feature,
            "top": self.top,
        }
        return frozenset(name for name, value in values.items() if value is not None)

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The numbers of the layers, without tensors' names."""
        return tuple(choice.layer for choice in self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The numbers of a foreign file, each at its layer, checked and in float32.

    `model_type` is what the file says of its model, as in a model's config.json. `fields` names
    where in the file each layer's numbers came from, for errors; `notes` are for the operator.
    """

    place: Path
    form: Form
    site: Site
    layers: Mapping[int, LayerArrays]
    fields: Mapping[int, str]
    model_type: str | None = None
    notes: tuple[str, ...] = ()
