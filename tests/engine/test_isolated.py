"""Isolated: with the same schedule, what the neighbours do changes nothing, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan, random_rows

pytestmark = pytest.mark.engine

GENERATOR = np.random.default_rng(3)
PROMPTS = [GENERATOR.integers(3, 256, length).tolist() for length in (9, 40, 21, 5)]
OURS = (SteerTerm(vector="v", scale=2.0, on="all"),)
NEIGHBOURS = (
    (),
    (SteerTerm(vector="w", scale=30.0, on="all"),),
    (SteerTerm(vector="v", scale=-7.0, on="output"), SteerTerm(vector="w", scale=1.0, on="prompt")),
)


def run(started: Engine, mine: tuple[SteerTerm, ...], theirs: tuple[SteerTerm, ...], **more):
    """The second of four requests, its neighbours steered in one way."""
    params = [
        started.params(
            steer=mine if i == 1 else theirs,
            decision_id=str(i),
            max_tokens=10,
            logprobs=-1,
            **({} if i == 1 else more),
        )
        for i in range(len(PROMPTS))
    ]
    return [all_logprobs(output) for output in started.run(PROMPTS, params)]


def test_isolated_from_the_programs_of_its_neighbours(qwen3: Path) -> None:
    plan = make_plan(
        Catalog(
            vectors={"v": vector("v", (1, 2), norm=5.0), "w": vector("w", (0, 3), seed=5)},
            probes={"p": probe("p", {0: random_rows(1, 1)[0]}, {"now": readout("output")})},
        ),
        (
            policy(
                "push",
                [
                    {
                        "id": "always",
                        "phase": "output",
                        "when": "x >= 0.000001",
                        "then": {"action": "steer", "vector": "w", "scale": 9.0},
                    }
                ],
                {"x": "p/now"},
            ),
        ),
    )
    with engine(qwen3, plan, max_num_batched_tokens=32, max_num_seqs=4) as started:
        for mine in ((), OURS):
            first, *others = [run(started, mine, theirs) for theirs in NEIGHBOURS]
            others.append(run(started, mine, (), policies=["push"]))
            for other in others:
                assert np.array_equal(first[1], other[1])
                assert np.abs(first[0] - other[0]).max() > 0.05
        steered, free = run(started, OURS, ()), run(started, (), ())
        assert np.abs(steered[1] - free[1]).max() > 0.05
        assert np.array_equal(steered[0], free[0])
