"""Vectors at layers and strengths, measured beside their controls.

Shape suffixes: N pairs, Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.cli.fit_order import Asking, FitOrder, Material, Part
from pilothouse.cli.fit_stand import Stand
from pilothouse.contrast.line import Said, forced
from pilothouse.contrast.measure import Heard, effects, figures, mean_interval
from pilothouse.contrast.report import (
    CONTROLS,
    Cell,
    Control,
    Kind,
    Trial,
)
from pilothouse.contrast.sample import Floats
from pilothouse.errors import ConfigError
from pilothouse.model.manifest import Interval
from pilothouse.progress import Phase
from pilothouse.term import SteerTerm


class Steering(NamedTuple):
    """A loaded vector at a layer and strength."""

    kind: Kind
    draw: int
    layer: int
    scale: float

    @property
    def vector(self) -> str:
        """The name it is loaded under."""
        return f"{self.kind}-{self.draw}"


def steerings(order: FitOrder, layers: Sequence[int]) -> list[Steering]:
    """The vector and its controls at each layer and strength, layer by layer."""
    kinds: list[tuple[Kind, int]] = [("fitted", 0)]
    kinds += [(kind, draw) for kind, draw in product(CONTROLS, range(order.controls))]
    return [
        Steering(kind, draw, layer, scale)
        for layer, (kind, draw), scale in product(layers, kinds, order.scales)
    ]


def measured(
    order: FitOrder,
    stand: Stand,
    part: Part,
    steerings: Sequence[Steering],
    phase: Phase,
    name: str,
) -> tuple[list[Cell], dict[Steering, Floats]]:
    """A cell for each steering, and its effect on each pair. A layer's go to the engine at once."""
    phase(f"{name}: unsteered", None)
    [plain] = _heard(order, stand, part, [None])
    if part.questions and not plain.right_Q.any():
        raise ConfigError(
            f"--facts: the unsteered model answers none of {len(part.questions)} questions right, "
            "so that nothing can be retained; ask what it knows"
        )
    advance = phase(name, len(steerings))
    cells: list[Cell] = []
    by_pair: dict[Steering, Floats] = {}
    for layer in dict.fromkeys(each.layer for each in steerings):
        batch = [each for each in steerings if each.layer == layer]
        for each, heard in zip(batch, _heard(order, stand, part, batch), strict=True):
            by_pair[each] = effects(plain, heard)
            cells.append(
                Cell(kind=each.kind, draw=each.draw, layer=each.layer, scale=each.scale,
                     figures=figures(plain, heard))
            )  # fmt: skip
        advance(len(batch))
    return cells, by_pair


def _heard(
    order: FitOrder, stand: Stand, part: Part, steerings: Sequence[Steering | None]
) -> list[Heard]:
    lines = (*part.positives, *part.negatives, *part.neutral)
    terms = [
        each and forced(each.vector, each.layer, each.scale, order.on, line)
        for each in steerings
        for line in lines
    ]
    said = stand.say(lines * len(steerings), terms)
    rights = _right(order, stand, part.questions, steerings)
    pairs = len(part.positives)
    found = []
    for index, right_Q in enumerate(rights):
        mine: list[Said] = said[index * len(lines) : (index + 1) * len(lines)]
        found.append(Heard(mine[:pairs], mine[pairs : 2 * pairs], mine[2 * pairs :], right_Q))
    return found


def _right(
    order: FitOrder,
    stand: Stand,
    questions: Sequence[Asking],
    steerings: Sequence[Steering | None],
) -> list[NDArray[np.bool_]]:
    if not questions:
        return [np.zeros(0, np.bool_)] * len(steerings)
    terms = [
        each
        and SteerTerm(
            vector=each.vector, layers=(each.layer,), scale=each.scale, unit="residual", on=order.on
        )
        for each in steerings
        for _ in questions
    ]
    answers = stand.answers(
        [each.ids for each in questions] * len(steerings), terms, order.answer_tokens
    )
    right = [
        question.answer.casefold() in stand.text(answer).casefold()
        for question, answer in zip(list(questions) * len(steerings), answers, strict=True)
    ]
    return [
        np.array(right[first : first + len(questions)])
        for first in range(0, len(right), len(questions))
    ]


def trial(
    order: FitOrder, cells: list[Cell], by_pair: dict[Steering, Floats], texts: Material
) -> Trial:
    """The effect on test pairs, by itself and over the mean of each kind of control."""
    groups, seed = texts.test.groups, order.seed
    fitted_N = next(found for each, found in by_pair.items() if each.kind == "fitted")
    over: dict[Control, Interval] = {}
    for control in CONTROLS:
        draws = [found for each, found in by_pair.items() if each.kind == control]
        over[control] = mean_interval(fitted_N - np.mean(draws, axis=0), groups, seed)
    return Trial(cells=tuple(cells), effect=mean_interval(fitted_N, groups, seed), effect_over=over)
