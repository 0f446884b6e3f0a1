"""A text as the engine gets it, and what the engine says of it.

Shape suffixes: T tokens that are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.term import Positions, SteerTerm
from pilothouse.training.methods import Floats
from pilothouse.types import Clause


class ScoredText(NamedTuple):
    """Token ids; what is read and scored begins at `start`, what is before was given."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """Of each scored token its log-probability, whether it was the likeliest, and the top ones.

    `tops` has the log-probabilities of the likeliest tokens (and of the token itself) by token id.
    """

    log_probabilities_T: Floats
    is_first_T: NDArray[np.bool_]
    tops: Sequence[Mapping[int, float]]

    @property
    def mean(self) -> float:
        """Mean log-probability of a token, so that long and short texts compare."""
        return float(self.log_probabilities_T.mean())


def forced(vector: str, layer: int, scale: float, on: Clause, line: ScoredText) -> SteerTerm:
    """The term that does to a given text what `on` does to a prompt and its answer."""
    where = {
        "all": None,
        "prompt": Positions(first=line.start),
        "output": Positions(last=len(line.ids) - line.start),
    }[on]
    return SteerTerm(
        vector=vector, layers=(layer,), scale=scale, unit="residual", on="prompt", positions=where
    )
