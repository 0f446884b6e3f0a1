"""Fits directions on pairs, and their controls, at several layers at once.

Shape suffixes: N pairs, L layers, F numbers of a state, D width of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.vector import Vector, build_vector
from pilothouse.demo.places import Scale
from pilothouse.training.controls import (
    bootstrap_cosines,
    random_direction,
    shuffled_direction,
)
from pilothouse.training.methods import Floats, Sample, mean_difference

METHOD: Final = "difference-of-means"
CREATED_BY: Final = "pilothouse.demo.card"
RESAMPLES: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """States of both sides of each pair at each layer, and the mean length of the stream there."""

    positive_LNF: Floats
    negative_LNF: Floats
    norms_L: Floats

    def scale(self, directions_LD: Floats, layers: Sequence[int]) -> Scale:
        """Return what directions measure at each layer: their lengths are the gaps."""
        length_L = np.linalg.norm(directions_LD, axis=1)
        middle_LD = (self.positive_LNF.mean(axis=1) + self.negative_LNF.mean(axis=1)) / 2
        along_L = (middle_LD * directions_LD).sum(axis=1) / length_L
        return Scale(
            dict(zip(layers, (length_L / self.norms_L).tolist(), strict=True)),
            dict(zip(layers, (along_L / self.norms_L).tolist(), strict=True)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """The fitted direction at each layer, and its controls by name, all [L, D] of equal lengths."""

    fitted_LD: Floats
    controls: dict[str, Floats]
    norms_L: Floats
    cosines_L: Floats
    """Return the mean cosine of refits on resampled pairs with the direction."""

    def report(self, layers: Sequence[int], wanted: Sequence[int]) -> list[dict[str, float]]:
        """Return of each layer that is wanted what the fit has to say, in plain numbers."""
        return [
            {
                "layer": layer,
                "length": float(np.linalg.norm(direction_D)),
                "residual_norm": float(norm),
                "bootstrap_cosine": float(cosine),
            }
            for layer, direction_D, norm, cosine in zip(
                layers, self.fitted_LD, self.norms_L, self.cosines_L, strict=True
            )
            if layer in wanted
        ]


def control_name(kind: str, draw: int) -> str:
    """Return what a control is called."""
    return f"{kind}-{draw}"


def fit_directions(
    states: States, layers: Sequence[int], groups: Sequence[str], *, draws: int, seed: int
) -> Directions:
    """Fit the difference of means at each layer, and so many controls of each kind.

    Random controls are directions that nobody chose; shuffled ones are what the same method makes
    of the same states with their sides dealt out anew.

    Raises:
        ConfigError: the sides do not differ.
    """
    fitted: list[Floats] = []
    cosines: list[float] = []
    controls: dict[str, list[Floats]] = {}
    for index, layer in enumerate(layers):
        sample = Sample(
            states.positive_LNF[index], states.negative_LNF[index], np.array(groups, np.str_)
        )
        generator = np.random.default_rng([seed, layer])
        direction_D = mean_difference(sample).direction_D
        length = float(np.linalg.norm(direction_D))
        fitted.append(direction_D)
        for draw in range(draws):
            controls.setdefault(control_name("random", draw), []).append(
                random_direction(length, len(direction_D), generator)
            )
            controls.setdefault(control_name("shuffled", draw), []).append(
                shuffled_direction(mean_difference, sample, length, generator)
            )
        cosines.append(
            float(bootstrap_cosines(mean_difference, sample, RESAMPLES, generator).mean())
        )
    return Directions(
        np.array(fitted),
        {name: np.array(each) for name, each in controls.items()},
        states.norms_L,
        np.array(cosines),
    )


def vector_of(
    name: str, directions_LD: Floats, norms_L: Floats, layers: Sequence[int], model_id: str
) -> Vector:
    """Return the directions as an artefact."""
    return build_vector(
        name,
        model_id=model_id,
        layers=tuple(layers),
        directions_LD=_float32(directions_LD),
        residual_norms_L=_float32(norms_L),
        created_by=f"{CREATED_BY} ({METHOD})",
    )


def _float32(values: Floats) -> NDArray[np.float32]:
    return values.astype(np.float32)
