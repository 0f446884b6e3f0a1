"""A text as the engine gets it, and what the engine says of it.

Shape suffixes: T tokens that are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import EngineError
from pilothouse.term import Positions, SteerTerm
from pilothouse.training.methods import Floats
from pilothouse.types import Clause

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs


class ScoredText(NamedTuple):
    """Token ids; what is read and scored begins at `start`, what is before was given."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What vLLM says of each scored token: log-probability, whether it is the likeliest, top ones.

    `tops` has the log-probabilities of the likeliest tokens (and of the token itself) by token id.
    """

    log_probabilities_T: Floats
    is_first_T: NDArray[np.bool_]
    tops: Sequence[Mapping[int, float]]

    @property
    def mean(self) -> float:
        """Return the mean log-probability of a token, by which texts compare; 0 of no token."""
        return float(self.log_probabilities_T.mean()) if len(self.log_probabilities_T) else 0.0


def said_of(line: ScoredText, flat: FlatLogprobs, *, tops: bool = False) -> Said:
    """Return what vLLM says of a text, from its start to the end of its ids.

    Args:
        line: the text, or as much of a prompt as is to be scored. vLLM scores no first token.
        flat: a prompt's log-probabilities, asked for with `flat_logprobs`. Of what stands before
            the start there may be none.
        tops: whether the likeliest tokens are taken along.

    Raises:
        EngineError: vLLM scored other tokens.
    """
    spans = [
        range(flat.start_indices[place], flat.end_indices[place])
        for place in range(line.start, len(line.ids))
    ]
    firsts = [span[0] for span in spans]
    if [flat.token_ids[each] for each in firsts] != list(line.ids[line.start :]):
        raise EngineError("vLLM gave scores of other tokens than it was asked for")
    return Said(
        np.array([flat.logprobs[each] for each in firsts], np.float64),
        np.array([flat.ranks[each] == 1 for each in firsts], np.bool_),
        [{flat.token_ids[each]: flat.logprobs[each] for each in span} for span in spans]
        if tops
        else (),
    )


def forced(vector: str, layer: int, scale: float, on: Clause, line: ScoredText) -> SteerTerm:
    """Return the term that does to a given text what `on` does to a prompt and its answer."""
    where = {
        "all": None,
        "prompt": Positions(first=line.start),
        "output": Positions(last=len(line.ids) - line.start),
    }[on]
    return SteerTerm(
        vector=vector, layers=(layer,), scale=scale, unit="residual", on="prompt", positions=where
    )
