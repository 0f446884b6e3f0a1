"""Heads of probes through the engine: chunked, preempted or from the prefix cache, they give what
their definitions give of transformers' activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.artifacts.probe import Probe
from pilothouse.head import Head
from pilothouse.types import Aggregate
from tests.reference.aggregation import aggregated
from tests.reference.heads import head_logit
from tests.reference.hf_hooks import HookedModel
from tests.support.engines.catalogs import headed_probe, policy, readout
from tests.support.engines.harness import BLOCK, Engine, engine, make_plan

pytestmark = pytest.mark.engine

LAYERS = (1, 3)
HEADS: Mapping[str, Head] = {
    "attention": Head(kind="attention", heads=4),
    "efficient": Head(kind="efficient_probing", heads=2, values_per_head=3),
    "multimax": Head(kind="multimax", heads=3),
    "rolling": Head(kind="rolling_attention", heads=2, window=4, order="sum_then_max"),
    "normalised": Head(normaliser="layer_norm"),
    "mlp": Head(kind="mlp", hidden_width=16, normaliser="rms"),
    "mahalanobis": Head(kind="mahalanobis", rank=3),
    "deep": Head(kind="attention", heads=2, hidden_width=8),
    "latched": Head(kind="rolling_attention", heads=2, window=5, order="max_then_sum"),
}
READOUTS = {
    "prompt": ("prompt", "last", None),
    "output": ("output", "last", None),
    "answer-peak": ("answer", "ema_max", 2.0),
}
BIAS = 0.3
OUTPUT_TOKENS = 30
SHARED = np.random.default_rng(3).integers(3, 256, 2 * BLOCK).tolist()
PROMPTS = [
    SHARED + np.random.default_rng(seed).integers(3, 256, 5 + 9 * seed).tolist()
    for seed in range(4)
]
NEVER = [{"id": "r", "phase": "prompt", "when": "x >= 0.999999", "then": {"action": "block"}}]


def probes() -> dict[str, Probe]:
    readouts = {name: readout(scope, how, half) for name, (scope, how, half) in READOUTS.items()}
    return {
        name: headed_probe(name, LAYERS, head, readouts, bias=BIAS, seed=len(name))
        for name, head in HEADS.items()
    }


def plan_of_heads(*names: str):
    """A plan of all heads, or of some, each read by an enforced rule of the prompt."""
    made = {name: each for name, each in probes().items() if not names or name in names}
    policies = [policy(f"on-{name}", NEVER, {"x": f"{name}/prompt"}) for name in made]
    return make_plan(Catalog(probes=made), policies)


def offline(probe: Probe, streams: Mapping[int, np.ndarray], prompt: int, fed: int):
    """Every readout of a probe by its definition, and the logits over the output so far."""
    states_LTD = np.stack([streams[layer][:fed] for layer in probe.layers])

    def logits(low: int, high: int) -> list[float]:
        """After each token; a head that does not pool has one of each token alone."""
        return [
            head_logit(probe.head, probe.tensors, states_LTD[:, low : stop + 1]) + BIAS
            for stop in range(low, high)
        ]

    bounds = {"prompt": (0, prompt), "output": (prompt, fed), "answer": (prompt - 1, fed)}
    values = {}
    for name, (scope, how, half) in READOUTS.items():
        logit = aggregated(Aggregate(how, half), logits(*bounds[scope]))
        values[f"{probe.name}/{name}"] = 1 / (1 + np.exp(-logit))
    return values, logits(prompt, fed)


def check(started: Engine, oracle: HookedModel, tag: str) -> list[int]:
    """All prompts at once, against the definitions; how many tokens came from the cache."""
    assert started.plan is not None
    loaded = list(started.plan.body.probes)
    for i, prompt in enumerate(PROMPTS):
        params = started.params(
            policies=[f"on-{name}" for name in loaded],
            probes=loaded,
            scores="tokens",
            decision_id=f"{tag}{i}",
            max_tokens=OUTPUT_TOKENS,
        )
        started.add(f"{tag}{i}", prompt, params)
    outputs = started.drain()
    for i, prompt in enumerate(PROMPTS):
        record = started.closing(f"{tag}{i}")
        tokens = list(outputs[f"{tag}{i}"].outputs[0].token_ids)
        fed = len(prompt) + OUTPUT_TOKENS - 1
        assert record.scored_tokens == dict.fromkeys(loaded, fed)
        assert record.unscored_tokens == {}
        streams = oracle.run(prompt + tokens).streams
        told = [score for each in started.records[f"{tag}{i}"] for score in each.token_scores]
        for name in loaded:
            probe = probes()[name]
            want, logits = offline(probe, streams, len(prompt), fed)
            for key, value in want.items():
                assert record.values[key] == pytest.approx(value, abs=1e-4), key
            got = [each.scores[name] for each in sorted(told, key=lambda each: each.index)]
            assert got == pytest.approx([1 / (1 + np.exp(-each)) for each in logits], abs=1e-4)
    return [outputs[f"{tag}{i}"].num_cached_tokens for i in range(len(PROMPTS))]


def test_chunked_and_from_the_cache_heads_give_their_definition(qwen3: Path) -> None:
    settings = {"max_num_batched_tokens": 24, "max_num_seqs": 8, "enable_prefix_caching": True}
    with engine(qwen3, plan_of_heads(), **settings) as started:
        oracle = HookedModel(qwen3)
        check(started, oracle, "cold")
        assert max(max(step.counts) for step in started.emissions) <= 24
        assert min(check(started, oracle, "warm")) >= 2 * BLOCK


@pytest.mark.full
def test_compiled_heads_give_their_definition(qwen3: Path) -> None:
    plan = plan_of_heads("normalised", "mlp", "mahalanobis", "deep")
    with engine(qwen3, plan, enforce_eager=False) as started:
        check(started, HookedModel(qwen3), "compiled")


def test_preempted_heads_give_their_definition(qwen3: Path) -> None:
    settings = {"num_gpu_blocks_override": 11, "max_num_batched_tokens": 64, "max_num_seqs": 8}
    with engine(qwen3, plan_of_heads(), **settings) as started:
        check(started, HookedModel(qwen3), "small")
        firsts = [
            name
            for step in started.emissions
            for name, start in zip(step.request_ids, step.starts, strict=True)
            if start == 0
        ]
        assert len(firsts) > len(set(firsts))
