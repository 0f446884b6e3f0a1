"""Controls with the freedom of choice that the fitted vector had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from pilothouse.cli.fit_order import FitOrder, Part
from pilothouse.cli.fit_search import smaller
from pilothouse.cli.fit_stages import CONTROLS as STAGE
from pilothouse.cli.fit_stages import Stages
from pilothouse.cli.fit_stand import Stand
from pilothouse.cli.fit_sweep import PartMeter, Steering, draws
from pilothouse.contrast.report import ControlChoice

CONTROL_TOKENS = 6_000
"""About what choosing the controls' layers may compute. Pairs are left out first."""


class Controls(NamedTuple):
    """A steering for each control, and how its layer was chosen."""

    steerings: list[Steering]
    choices: tuple[ControlChoice, ...]


def chosen_controls(
    order: FitOrder,
    stand: Stand,
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
    drawn = draws(order)
    steerings = [
        Steering(kind, draw, layer, scale) for kind, draw in drawn for layer in sorted(layers)
    ]
    few = replace(
        smaller(replace(part, neutral=()), CONTROL_TOKENS // len(steerings), stand, order.on),
        neutral=(),
    )
    with stages.stage(STAGE, stand) as tell:
        meter = PartMeter(order, stand, few, tell(None))
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
            draw=control.draw, layer=control.layer,
            effects={
                each.layer: means[each]
                for each in steerings
                if (each.kind, each.draw) == (control.kind, control.draw)
            },
        )
        for control in best
    )  # fmt: skip
    return Controls(best, choices)
