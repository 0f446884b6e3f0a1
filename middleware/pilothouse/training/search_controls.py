"""Controls with the freedom of choice that the fitted vector had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.fit_options import FitOptions, Part
from pilothouse.training.report import ControlChoice
from pilothouse.training.staged_search import smaller
from pilothouse.training.stages import CONTROLS as STAGE
from pilothouse.training.stages import Stages
from pilothouse.training.sweep import PartMeter, Steering, draws

CONTROL_TOKENS = 6_000
"""About what choosing the controls' layers may compute. Pairs are left out first."""


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
        part: the one that chooses.
        scale: the chosen strength, which is that of all controls.
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
