"""Controls of a direction, with the freedom of choice that it had itself, and its steadiness.

Shape suffixes: D width of the site, B refits, N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pilothouse.errors import ConfigError
from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.fit_options import FitOptions, Part
from pilothouse.training.methods import Floats, Method, Sample
from pilothouse.training.report import ControlChoice
from pilothouse.training.staged_search import smaller
from pilothouse.training.stages import CONTROLS as STAGE
from pilothouse.training.stages import Stages
from pilothouse.training.sweep import PartMeter, Steering, draws

CONTROL_TOKENS = 6_000
"""Choosing the controls' layers may compute about as much. Pairs are left out first."""


def random_direction(length: float, width: int, generator: np.random.Generator) -> Floats:
    """Draw a direction that nobody chose, at a given length."""
    direction_D = generator.normal(size=width)
    return direction_D * (length / float(np.linalg.norm(direction_D)))


def shuffled_direction(
    method: Method, sample: Sample, length: float, generator: np.random.Generator
) -> Floats:
    """Return what a method makes of states whose sides were dealt out anew, at a given length."""
    direction_D = method(sample.shuffled(generator)).direction_D
    return direction_D * (length / float(np.linalg.norm(direction_D)))


def bootstrap_cosines(
    method: Method, sample: Sample, resamples: int, generator: np.random.Generator
) -> Floats:
    """Return the cosines [B] of refits on resampled groups with the whole sample's direction.

    A resample on which the method cannot be fitted counts as 0.
    """
    whole_D = method(sample).direction_D
    return np.array(
        [_cosine(whole_D, method, sample.resampled(generator)) for _ in range(resamples)]
    )


def _cosine(whole_D: Floats, method: Method, sample: Sample) -> float:
    try:
        other_D = method(sample).direction_D
    except ConfigError:
        return 0.0
    return float(whole_D @ other_D / (np.linalg.norm(whole_D) * np.linalg.norm(other_D)))


class Controls(NamedTuple):
    """A steering for each control, and how its layer was chosen."""

    steerings: list[Steering]
    choices: tuple[ControlChoice, ...]


def chosen_controls(
    options: FitOptions,
    engine: FitEngine,
    part: Part,
    layers: Sequence[int],
    scale: float,
    stages: Stages,
) -> Controls:
    """Have each control take the layer, of those searched, at which it does most on a part.

    Without that the fitted vector would be the only one that was picked for what it does.

    Args:
        options: those of the fit.
        engine: the engine that has the controls loaded.
        part: the texts that choose.
        layers: those that were searched.
        scale: the chosen strength, which is that of all controls.
        stages: told of the work.
    """
    drawn = draws(options)
    steerings = [
        Steering(kind, draw, layer, scale) for kind, draw in drawn for layer in sorted(layers)
    ]
    few = replace(
        smaller(replace(part, neutral=()), CONTROL_TOKENS // len(steerings), engine, options.on),
        neutral=(),
    )
    with stages.stage(STAGE, engine) as tell:
        meter = PartMeter(options, engine, few, tell(None))
        effects = meter.effects(steerings, tell(len(steerings) * meter.texts))
    means = {each: float(effects_N.mean()) for each, effects_N in effects.items()}
    best = [
        max(
            (each for each in steerings if (each.kind, each.draw) == control),
            key=lambda each: (means[each], -each.layer),
        )
        for control in drawn
    ]
    choices = tuple(
        ControlChoice(
            kind=control.kind,  # type: ignore[arg-type]
            draw=control.draw,
            layer=control.layer,
            effects={
                each.layer: means[each]
                for each in steerings
                if (each.kind, each.draw) == (control.kind, control.draw)
            },
        )
        for control in best
    )
    return Controls(best, choices)
