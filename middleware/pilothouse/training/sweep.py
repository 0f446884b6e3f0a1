"""Vectors at layers and strengths, measured on a part of the texts.

Shape suffixes: N pairs, Q questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import Interval
from pilothouse.errors import ConfigError, argument
from pilothouse.progress import Advance
from pilothouse.term import SteerTerm
from pilothouse.training.fit_engine import FitEngine
from pilothouse.training.fit_options import Asking, FitOptions, Part
from pilothouse.training.measure import Heard, effects, figures, mean_interval
from pilothouse.training.methods import Floats
from pilothouse.training.report import CONTROLS, Cell, Control, Kind, Trial
from pilothouse.training.scored_text import Said, ScoredText, forced

NEUTRAL_TOKENS = 50_000
"""Tokens of neutral texts, times the steerings they are read under, that are held at a time."""


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


class Measured(NamedTuple):
    """The figures of a steering, and its effect on each pair."""

    cell: Cell
    effects_N: Floats


def fitted(layers_and_scales: Iterable[tuple[int, float]]) -> list[Steering]:
    """Return the fitted vector at these places."""
    return [Steering("fitted", 0, layer, scale) for layer, scale in layers_and_scales]


def with_controls(options: FitOptions, layers: Sequence[int]) -> list[Steering]:
    """Return the vector and its controls at each layer and strength, layer by layer."""
    kinds: list[tuple[Kind, int]] = [("fitted", 0), *draws(options)]
    return [
        Steering(kind, draw, layer, scale)
        for layer, (kind, draw), scale in product(layers, kinds, options.scales)
    ]


def draws(options: FitOptions) -> list[tuple[Control, int]]:
    """Return every control: its kind, and its number among them."""
    return list(product(CONTROLS, range(options.controls)))


class PartMeter:
    """Measures steerings on a part of the texts, beside no steering.

    Raises:
        ConfigError: there are questions, and the unsteered model answers none.
    """

    def __init__(
        self, options: FitOptions, engine: FitEngine, part: Part, advance: Advance
    ) -> None:
        self._options, self._engine, self.part = options, engine, part
        [self._plain] = self._heard([None], advance)
        if part.questions and not self._plain.right_Q.any():
            raise ConfigError(
                f"{argument('facts')}: the unsteered model answers none of {len(part.questions)} "
                "questions right, so that nothing can be retained; ask what it knows"
            )

    @property
    def texts(self) -> int:
        """How many texts are read under each steering."""
        return len(self._lines) + len(self.part.questions)

    def cells(self, steerings: Sequence[Steering], advance: Advance) -> dict[Steering, Measured]:
        """Measure what each steering does; they go to the engine together, each as a program."""
        return {
            each: Measured(
                Cell(
                    kind=each.kind,
                    draw=each.draw,
                    layer=each.layer,
                    scale=each.scale,
                    figures=figures(self._plain, heard),
                ),
                effects(self._plain, heard),
            )
            for each, heard in self._batches(steerings, advance)
        }

    def effects(self, steerings: Sequence[Steering], advance: Advance) -> dict[Steering, Floats]:
        """Measure effects alone, so that the part needs no neutral texts."""
        return {
            each: effects(self._plain, heard) for each, heard in self._batches(steerings, advance)
        }

    def _batches(
        self, steerings: Sequence[Steering], advance: Advance
    ) -> Iterator[tuple[Steering, Heard]]:
        neutral = sum(len(line.ids) - line.start for line in self.part.neutral)
        at_a_time = max(1, NEUTRAL_TOKENS // max(1, neutral))
        for first in range(0, len(steerings), at_a_time):
            batch = steerings[first : first + at_a_time]
            yield from zip(batch, self._heard(batch, advance), strict=True)

    @property
    def _lines(self) -> tuple[ScoredText, ...]:
        return (*self.part.positives, *self.part.negatives, *self.part.neutral)

    def _heard(self, steerings: Sequence[Steering | None], advance: Advance) -> list[Heard]:
        part, lines = self.part, self._lines
        terms = [
            each and forced(each.vector, each.layer, each.scale, self._options.on, line)
            for each in steerings
            for line in lines
        ]
        pairs = len(part.positives)
        is_neutral = [False] * (2 * pairs) + [True] * len(part.neutral)
        said = self._engine.say(lines * len(steerings), terms, is_neutral * len(steerings), advance)
        rights = self._right(steerings, advance)
        found = []
        for index, right_Q in enumerate(rights):
            mine: list[Said] = said[index * len(lines) : (index + 1) * len(lines)]
            found.append(Heard(mine[:pairs], mine[pairs : 2 * pairs], mine[2 * pairs :], right_Q))
        return found

    def _right(
        self, steerings: Sequence[Steering | None], advance: Advance
    ) -> list[NDArray[np.bool_]]:
        questions: Sequence[Asking] = self.part.questions
        if not questions:
            return [np.zeros(0, np.bool_)] * len(steerings)
        terms = [
            each
            and SteerTerm(
                vector=each.vector,
                layers=(each.layer,),
                scale=each.scale,
                unit="residual",
                on=self._options.on,
            )
            for each in steerings
            for _ in questions
        ]
        contexts = [each.ids for each in questions] * len(steerings)
        answers = self._engine.answers(contexts, terms, self._options.answer_tokens, advance)
        right = [
            question.answer.casefold() in self._engine.text(answer).casefold()
            for question, answer in zip(list(questions) * len(steerings), answers, strict=True)
        ]
        return [
            np.array(right[first : first + len(questions)])
            for first in range(0, len(right), len(questions))
        ]


def trial(
    options: FitOptions, measured: Mapping[Steering, Measured], groups: Sequence[str]
) -> Trial:
    """Return the effect on test pairs, by itself and over the mean of each kind of control."""
    by_kind: dict[Kind, list[Floats]] = {}
    for each, (_, effects_N) in measured.items():
        by_kind.setdefault(each.kind, []).append(effects_N)
    [fitted_N] = by_kind["fitted"]
    over: dict[Control, Interval] = {
        control: mean_interval(fitted_N - np.mean(by_kind[control], axis=0), groups, options.seed)
        for control in CONTROLS
    }
    cells = tuple(each.cell for each in measured.values())
    effect = mean_interval(fitted_N, groups, options.seed)
    return Trial(cells=cells, effect=effect, effect_over=over)
