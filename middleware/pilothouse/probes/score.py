"""From activations to token logits to one number per sequence, as the engine does it.

Shapes: N sequences, T tokens end to end, L layers, D = d_model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import ReadoutAggregate
from pilothouse.probes.aggregators import make_aggregator
from pilothouse.probes.dataset import Dataset

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A read row over one or more layers: logit = sum over layers of <w_l, h_l>, plus bias."""

    layers: tuple[int, ...]
    weights_LD: NDArray[np.float32]
    bias: float


def token_logits(row: Row, dataset: Dataset) -> Floats:
    """logits_T of every token."""
    logits_T = np.full(int(dataset.starts[-1]), row.bias)
    for layer, weights_D in zip(row.layers, row.weights_LD, strict=True):
        logits_T += dataset.hidden_TD(layer) @ weights_D
    return logits_T


def sequence_logits(
    logits_T: Floats, starts: NDArray[np.int64], aggregate: ReadoutAggregate
) -> Floats:
    """logits_N by the streaming aggregator; NaN for a sequence without tokens.

    Many short sequences are stepped together, few long ones folded one by one.
    """
    aggregator = make_aggregator(aggregate.spec)
    lengths_N = np.diff(starts)
    states_NW = aggregator.start(lengths_N.size)
    if lengths_N.size < lengths_N.max(initial=0):
        for index, (first, end) in enumerate(pairwise(starts.tolist())):
            aggregator.fold(states_NW[index], logits_T[first:end])
        return aggregator.value(states_NW)
    longest_first = np.argsort(-lengths_N, kind="stable")
    ordered = lengths_N[longest_first]
    for position in range(int(lengths_N.max(initial=0))):
        active = int(np.searchsorted(-ordered, -position, side="left"))
        tokens = starts[longest_first[:active]] + position
        aggregator.step(states_NW[:active], logits_T[tokens])
    values_N = np.empty(lengths_N.size)
    values_N[longest_first] = aggregator.value(states_NW)
    return values_N
