"""Offline scores are the streaming scores."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pilothouse.aggregate import TRAITS
from pilothouse.artifacts.manifest import ReadoutAggregate
from pilothouse.probes.score import Row, sequence_logits, token_logits
from tests.reference.aggregation import aggregated
from tests.support.training.planted_activations import D_MODEL, planted

AGGREGATES = [
    ReadoutAggregate(kind=kind, **{name: each.example for name, each in traits.parameters.items()})
    for kind, traits in TRAITS.items()
]


def test_a_token_logit_is_the_sum_over_layers_plus_the_bias() -> None:
    data = planted(20, 0)
    weights = np.random.default_rng(1).normal(size=(2, D_MODEL)).astype(np.float32)
    got = token_logits(Row((6, 4), weights, 0.75), data)
    wanted = data.hidden_LTD[2] @ weights[0] + data.hidden_LTD[1] @ weights[1] + 0.75
    assert np.allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda each: each.kind)
@pytest.mark.parametrize("lengths", [[3, 1, 7, 2, 7, 5, 4, 4, 1], [500, 0, 41], [0, 0], [1]])
def test_every_sequence_gets_its_own_value(aggregate: ReadoutAggregate, lengths: list[int]) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    logits = np.random.default_rng(2).normal(size=starts[-1])
    got = sequence_logits(logits, starts, aggregate)
    wanted = [
        aggregated(aggregate.spec, logits[first:end].tolist()) for first, end in pairwise(starts)
    ]
    assert np.allclose(got, wanted, rtol=1e-9, equal_nan=True)
