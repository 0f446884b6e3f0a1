"""Places where a vector can edit, which a search tries, and the terms that a profile has for them.

A dose is counted in distances between the two sides of the pairs, so that doses compare over
layers, over vectors, and between adding and bounding.

Shape suffixes: L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, Literal

from pilothouse.artifacts.manifest import Closed
from pilothouse.demo.judges.judge import Sign
from pilothouse.term import SteerTerm

How = Literal["add", "floor", "cap"]
When = Literal["answer", "opening"]
"""`answer` is the prompt's last token, from which the first token comes, and the whole output;
`opening` ends with the output's first tokens."""
OPENING_TOKENS: Final = 8
LAYERS: Final = tuple(range(5, 29))
"""The layers at which pairs are read; every place is some of them."""


class Steering(Closed):
    """One way to steer, as a card and a profile have it.

    Strengths are in shares of the stream's mean length at a layer. An addition has one for all of
    its layers; a bound has one for each: the least (`floor`) or the most (`cap`) that may lie along
    the direction there.
    """

    layers: tuple[int, ...]
    how: How
    when: When
    strengths: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Layers, tokens, and whether the vector is added there or its projection is bounded."""

    layers: tuple[int, ...]
    when: When = "answer"
    is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Measures of one direction at each layer, in shares of the stream's mean length.

    Args:
        gap: from the mean of one side of the pairs to that of the other.
        centre: how much of the direction lies in the middle between the two.
    """

    gap: Mapping[int, float]
    centre: Mapping[int, float]


def _place(*spans: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(first, last + 1)) for first, last in spans)


SINGLE: Final = _place((16, 16), (20, 20), (24, 24), (27, 27))
BANDS: Final = _place((12, 19), (18, 25))
OPENED: Final = _place((24, 24), (18, 25))
BOUNDED: Final = ((20,), (24,), (18, 21, 24))
PLACES: Final = (
    *(Place(each) for each in (*SINGLE, *BANDS)),
    *(Place(each, when="opening") for each in OPENED),
    *(Place(each, is_bound=True) for each in BOUNDED),
)
"""The places that are tried with every vector."""


def steering_at(place: Place, dose: float, sign: Sign, scale: Scale) -> Steering:
    """Return a place at a dose.

    A dose is shared out over the layers of an addition, whose effects add up; a bound is whole at
    each, as it does nothing where another has done it. Bounded at a dose, a token that was where
    the other side of the pairs is ends where adding would have brought it, and one that is there
    already is left alone.
    """
    how: How = "add"
    values: tuple[float, ...]
    if place.is_bound:
        how = "floor" if sign > 0 else "cap"
        values = tuple(
            scale.centre[each] + sign * (dose - 0.5) * scale.gap[each] for each in place.layers
        )
    else:
        gap = fmean(scale.gap[each] for each in place.layers)
        values = (sign * dose * gap / len(place.layers),)
    strengths = tuple(round(each, 4) for each in values)
    return Steering(layers=place.layers, how=how, when=place.when, strengths=strengths)


def terms_of(vector: str, steering: Steering) -> tuple[SteerTerm, ...]:
    """Return the terms that steer so with a vector."""
    window = {"positions": {"window": (0, OPENING_TOKENS)}} if steering.when == "opening" else {}
    if steering.how == "add":
        [strength] = steering.strengths
        alike: list[dict[str, object]] = [{"scale": strength, "layers": steering.layers}]
    else:
        alike = [
            {"op": steering.how, "value": value, "layers": (layer,)}
            for layer, value in zip(steering.layers, steering.strengths, strict=True)
        ]
    return tuple(
        SteerTerm.model_validate({"vector": vector, "unit": "residual", **each, **where})
        for each in alike
        for where in ({"on": "prompt", "positions": "last_prompt"}, {"on": "output", **window})
    )


def steering_in_words(steering: Steering) -> str:
    """Return a steering as tables have it."""
    how = {"add": "add", "floor": "at least", "cap": "at most"}[steering.how]
    numbers = ", ".join(f"{each:.3g}" for each in steering.strengths)
    when = f", first {OPENING_TOKENS} tokens" if steering.when == "opening" else ""
    return f"{how} {numbers} at {_layers_in_words(steering.layers)}{when}"


def _layers_in_words(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if tuple(layers) == tuple(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"
