"""Streaming equals offline: scores through the engine, whatever the schedule did to a request."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from pilothouse.aggregate import TRAITS, parameters_of
from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.manifest import Readout
from pilothouse.term import SteerTerm
from pilothouse.types import Aggregate
from tests.reference.aggregation import aggregated
from tests.reference.hf_hooks import HookedEdit, HookedModel
from tests.support.engines.catalogs import policy, probe, vector
from tests.support.engines.harness import (
    BLOCK,
    Engine,
    all_logprobs,
    engine,
    forced_async,
    make_plan,
    random_rows,
)

pytestmark = pytest.mark.engine

CUSUM = {"reference_logit": -0.5, "drift_logits": 0.25}
ALARM = {"k_tokens": 3, "window_tokens": 8, "on_logit": 0.5, "off_logit": 0.0}
READOUTS = {
    "prompt-max": ("prompt", Aggregate("max")),
    "prompt-mean": ("prompt", Aggregate("mean")),
    "output-last": ("output", Aggregate("last")),
    "answer-mean": ("answer", Aggregate("mean")),
    "answer-ema": ("answer", Aggregate("ema_last", 3.0)),
    "output-peak": ("output", Aggregate("ema_max", 2.0)),
    "prompt-top": ("prompt", Aggregate("top_k_mean", k_tokens=5)),
    "answer-window": ("answer", Aggregate("sliding_mean", window_tokens=12)),
    "prompt-window": ("prompt", Aggregate("sliding_max", window_tokens=12)),
    "output-window": ("output", Aggregate("sliding_max", window_tokens=100)),
    "answer-softmax": ("answer", Aggregate("softmax_mean", temperature=0.5)),
    "prompt-sum": ("prompt", Aggregate("log_sum_exp", temperature=2.0)),
    "output-any": ("output", Aggregate("noisy_or")),
    "answer-cusum": ("answer", Aggregate("cusum_last", **CUSUM)),
    "prompt-cusum": ("prompt", Aggregate("cusum_max", **CUSUM)),
    "output-alarm": ("output", Aggregate("k_of_n", **ALARM)),
    "prompt-alarm": ("prompt", Aggregate("k_of_n", **ALARM)),
}
SLOPE = 0.125
"""Keeps sums of logits away from where a sigmoid is flat."""
BIAS = 0.3
ROWS = random_rows(5, 2, norm=0.7)
OUTPUT_TOKENS = 60
PROMPTS = [
    np.random.default_rng(seed).integers(3, 256, 40 + 9 * seed).tolist() for seed in range(4)
]


def plan_of_readouts():
    readouts = {
        name: Readout(
            scope=scope,
            aggregate={"kind": aggregate.kind} | parameters_of(aggregate),
            slope=SLOPE,
            offset=0.0,
            prior=0.5,
        )
        for name, (scope, aggregate) in READOUTS.items()
    }
    return make_plan(
        Catalog(
            vectors={"v": vector("v", (2,), norm=4.0)},
            probes={"p": probe("p", {1: ROWS[0], 3: ROWS[1]}, readouts, bias=BIAS)},
        ),
        (
            policy(
                "push",
                [
                    {
                        "id": "on",
                        "phase": "output",
                        "when": "x >= 0.000001",
                        "then": {"action": "steer", "vector": "v", "scale": 1.0, "hold_tokens": 4},
                    }
                ],
                {"x": "p/output-last"},
            ),
        ),
    )


def offline(logits_T: np.ndarray, num_prompt_tokens: int) -> dict[str, float]:
    """Every readout over a whole run at once, written apart from the aggregators."""
    values = {}
    for name, (scope, aggregate) in READOUTS.items():
        low = {"prompt": 0, "output": num_prompt_tokens, "answer": num_prompt_tokens - 1}[scope]
        run_T = logits_T[low : num_prompt_tokens if scope == "prompt" else None].astype(float)
        logit = aggregated(aggregate, run_T.tolist())
        values[f"p/{name}"] = 1 / (1 + np.exp(-SLOPE * logit))
    return values


def check_scores(started: Engine, oracle: HookedModel, **more) -> list[object]:
    """All prompts at once; streamed values against both offline folds. The outputs."""
    for i, prompt in enumerate(PROMPTS):
        params = started.params(probes=["p"], decision_id=f"r{i}", max_tokens=OUTPUT_TOKENS, **more)
        started.add(f"r{i}", prompt, params)
    outputs = started.drain()
    for i, prompt in enumerate(PROMPTS):
        record = started.closing(f"r{i}")
        tokens = list(outputs[f"r{i}"].outputs[0].token_ids)
        fed = len(prompt) + OUTPUT_TOKENS - 1
        assert record.scored_tokens == {"p": fed}
        assert record.unscored_tokens == {}
        reads = started.reads(f"r{i}")
        rows_T = np.array([reads[position].sum() for position in range(fed)]) + BIAS
        streams = oracle.run(prompt + tokens).streams
        hooked_T = streams[1] @ ROWS[0] + streams[3] @ ROWS[1] + BIAS
        for name, value in offline(rows_T, len(prompt)).items():
            assert abs(record.values[name] - value) <= 1e-5, name
        for name, value in offline(hooked_T[:fed], len(prompt)).items():
            assert abs(record.values[name] - value) <= 1e-4, name
    return [outputs[f"r{i}"] for i in range(len(PROMPTS))]


def fed_again(started: Engine) -> int:
    """Requests whose first position was fed more than once: preempted and resumed."""
    firsts = [
        name
        for step in started.emissions
        for name, start in zip(step.request_ids, step.starts, strict=True)
        if start == 0
    ]
    return len(firsts) - len(set(firsts))


def test_every_kind_of_aggregator_is_read_through_the_engine() -> None:
    assert {aggregate.kind for _, aggregate in READOUTS.values()} == set(TRAITS)


def test_streaming_equals_offline_under_chunked_prefill(qwen3: Path) -> None:
    with engine(qwen3, plan_of_readouts(), max_num_batched_tokens=16, max_num_seqs=8) as started:
        check_scores(started, HookedModel(qwen3))
        assert max(max(step.counts) for step in started.emissions) <= 16


AHEAD = [pytest.param(False, id="sync"), pytest.param(True, id="async")]


def scheduling(ahead: bool) -> AbstractContextManager[None]:
    """Whether steps are scheduled while one is in flight."""
    return forced_async() if ahead else nullcontext()


SMALL_CACHE = {"num_gpu_blocks_override": 11, "max_num_batched_tokens": 64, "max_num_seqs": 8}


@pytest.mark.parametrize("ahead", AHEAD)
def test_streaming_equals_offline_over_preemption(qwen3: Path, ahead: bool) -> None:
    with scheduling(ahead), engine(qwen3, plan_of_readouts(), **SMALL_CACHE) as started:
        check_scores(started, HookedModel(qwen3))
        assert fed_again(started) > 0


@pytest.mark.parametrize("ahead", AHEAD)
def test_steering_of_requests_and_policies_survives_preemption(qwen3: Path, ahead: bool) -> None:
    term = SteerTerm(vector="v", scale=-1.0, on="prompt")
    want, got = [], []
    for settings, results in (({}, want), (SMALL_CACHE, got)):
        with scheduling(ahead), engine(qwen3, plan_of_readouts(), **settings) as started:
            for i, prompt in enumerate(PROMPTS):
                params = started.params(
                    steer=[term] if i % 2 else [],
                    policies=["push"],
                    decision_id=f"s{i}",
                    max_tokens=OUTPUT_TOKENS,
                    logprobs=-1,
                )
                started.add(f"s{i}", prompt, params)
            outputs = started.drain()
            assert (fed_again(started) > 0) == bool(settings)
            results += [outputs[f"s{i}"] for i in range(len(PROMPTS))]
            steered = started.closing("s0").steered_tokens
            assert steered == {"v": OUTPUT_TOKENS - 2 - ahead}
    oracle = HookedModel(qwen3)
    delta_D = vector("v", (2,), norm=4.0).directions_LD[0]
    for i, (calm, preempted) in enumerate(zip(want, got, strict=True)):
        tokens = list(calm.outputs[0].token_ids)
        assert list(preempted.outputs[0].token_ids) == tokens
        assert np.abs(all_logprobs(calm) - all_logprobs(preempted)).max() < 1e-4
        # The first score of an output token exists when the second is fed: steered from there on,
        # or one later when that step is in flight already.
        size = len(PROMPTS[i])
        edits = [HookedEdit(2, delta_D, start=size + 1 + ahead)]
        if i % 2:
            edits.append(HookedEdit(2, -delta_D, stop=size))
        ref_TV = oracle.run(PROMPTS[i] + tokens, edits).logprobs_TV[size - 1 : -1]
        assert np.abs(all_logprobs(calm) - ref_TV).max() < 1e-4


def test_a_small_cache_holds_fewer_requests_than_the_test_needs() -> None:
    blocks = sum(-(-(len(prompt) + OUTPUT_TOKENS) // BLOCK) for prompt in PROMPTS)
    assert blocks > SMALL_CACHE["num_gpu_blocks_override"]
