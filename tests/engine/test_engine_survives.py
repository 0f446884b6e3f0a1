"""Engine-survives: whatever sealed requests ask for, the engine serves on and forgets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import (
    Engine,
    all_logprobs,
    engine,
    forced_async,
    make_plan,
    random_rows,
)

pytestmark = pytest.mark.engine

LAYERS = {"v": (0, 2), "w": (1, 2, 3)}
POLICIES = ("ends", "pushes", "prompt-ends", "broken")
PATIENCE_STEPS = 20_000
PROBE_PROMPT = list(range(30, 71))


def plan_of_everything():
    rows = random_rows(6, 4, norm=2.0)
    signals = {"now": readout("output"), "seen": readout("prompt", "mean")}
    block: dict[str, Any] = {"action": "block"}
    push = {"action": "steer", "vector": "w", "scale": 2.0, "hold_tokens": 3}
    return make_plan(
        Catalog(
            vectors={name: vector(name, layers, norm=4.0) for name, layers in LAYERS.items()},
            probes={
                "p": probe("p", {0: rows[0], 3: rows[3]}, signals),
                "broken": probe("broken", {1: np.full(64, 3e38, np.float32)}, signals),
            },
        ),
        (
            policy(
                "ends",
                [{"id": "r", "phase": "output", "when": "x >= 0.9 for 2 tokens", "then": block}],
                {"x": "p/now"},
            ),
            policy(
                "pushes",
                [{"id": "r", "phase": "output", "when": "x >= 0.3", "then": push}],
                {"x": "p/now"},
            ),
            policy(
                "prompt-ends",
                [{"id": "r", "phase": "prompt", "when": "x >= 0.6", "then": block}],
                {"x": "p/seen"},
            ),
            policy(
                "broken",
                [{"id": "r", "phase": "output", "when": "x >= 0.5", "then": block}],
                {"x": "broken/now"},
            ),
        ),
        limits={"max_norm_ratio": 1e6, "max_programs": 3, "max_wait_ms": 200},
    )


@dataclass(frozen=True)
class Stormy:
    """A random request."""

    prompt: list[int]
    steer: tuple[SteerTerm, ...]
    policies: tuple[str, ...]
    shadow: tuple[str, ...]
    scores: str
    max_tokens: int
    abort_after: int | None
    sampling: dict[str, Any]


terms = st.sampled_from(sorted(LAYERS)).flatmap(
    lambda name: st.builds(
        SteerTerm,
        vector=st.just(name),
        scale=st.floats(-1e6, 1e6) | st.just(0.0) | st.just(1e300),
        unit=st.sampled_from(["raw", "unit", "residual"]),
        on=st.sampled_from(["prompt", "output", "all"]),
        layers=st.none() | st.sets(st.sampled_from(LAYERS[name]), min_size=1).map(tuple),
    )
)
requests = st.builds(
    Stormy,
    prompt=st.lists(st.integers(3, 255), min_size=1, max_size=70),
    steer=st.lists(terms, max_size=3).map(tuple),
    policies=st.sets(st.sampled_from(POLICIES)).map(tuple),
    shadow=st.sets(st.sampled_from(POLICIES), max_size=1).map(tuple),
    scores=st.sampled_from(["none", "summary", "tokens"]),
    max_tokens=st.integers(1, 20),
    abort_after=st.none() | st.integers(0, 6),
    sampling=st.fixed_dictionaries(
        {}, optional={"logprobs": st.integers(0, 3), "temperature": st.just(1.0)}
    ),
)


@pytest.fixture(scope="module", params=["sync", "async"])
def served(
    request: pytest.FixtureRequest, qwen3: Path
) -> Iterator[tuple[Engine, list[int], np.ndarray]]:
    """An engine with a small cache, and what it answers before any storm."""
    scheduling = forced_async() if request.param == "async" else nullcontext()
    with (
        scheduling,
        engine(
            qwen3,
            plan_of_everything(),
            enable_prefix_caching=True,
            num_gpu_blocks_override=12,
            max_num_batched_tokens=48,
            max_num_seqs=6,
            max_model_len=128,
        ) as started,
    ):
        tokens, logprobs_TV = calm(started)
        yield started, tokens, logprobs_TV


def calm(started: Engine) -> tuple[list[int], np.ndarray]:
    """A plain request on an empty cache."""
    started.reset_cache()
    [output] = started.run([PROBE_PROMPT], started.params(max_tokens=10, logprobs=-1))
    return list(output.outputs[0].token_ids), all_logprobs(output)


_numbers = iter(range(1 << 30))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(storm=st.lists(requests, min_size=1, max_size=10))
def test_engine_survives_a_storm(
    served: tuple[Engine, list[int], np.ndarray], storm: list[Stormy]
) -> None:
    started, tokens, logprobs_TV = served
    aborts: dict[int, list[str]] = {}
    names = []
    for each in storm:
        names.append(f"storm{next(_numbers)}")
        shadow = tuple(name for name in each.shadow if name not in each.policies)
        params = started.params(
            steer=each.steer,
            policies=each.policies,
            shadow=shadow,
            scores=each.scores,
            decision_id=names[-1],
            max_tokens=each.max_tokens,
            **each.sampling,
        )
        started.add(names[-1], each.prompt, params)
        if each.abort_after is not None:
            aborts.setdefault(each.abort_after, []).append(names[-1])
    step = 0
    while started.llm.llm_engine.has_unfinished_requests():
        for name in aborts.pop(step, []):
            started.abort(name)
        started.step()
        step += 1
        assert step < PATIENCE_STEPS, "a request never ends"
    again, logprobs_again_TV = calm(started)
    assert again == tokens
    assert np.array_equal(logprobs_again_TV, logprobs_TV)
    for name in names:
        assert sum(record.closing for record in started.records[name]) == 1, name
    nothing_is_left(started.scheduler)


def nothing_is_left(scheduler: Any) -> None:
    """All that requests held was let go."""
    assert scheduler._request_states == {}
    assert not scheduler._policy_engine.busy
    assert scheduler._steering.programs_active == 0
    assert not scheduler._steering._waiters
    assert scheduler._pending == {}
