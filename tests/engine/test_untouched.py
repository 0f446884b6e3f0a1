"""Untouched: everything loaded and nothing active, outputs equal plain vLLM's bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan, random_rows

pytestmark = pytest.mark.engine

LENGTHS = (1, 5, 17, 33, 70, 100)
CHUNKED: dict[str, Any] = {
    "max_num_batched_tokens": 32,
    "max_num_seqs": 8,
    "enable_prefix_caching": True,
}


def loaded_plan():
    """Vectors at every layer, probes, and policies of each kind of action and phase."""
    rows = random_rows(9, 4)
    return make_plan(
        Catalog(
            vectors={"v": vector("v", (0, 1, 2, 3), norm=50.0), "w": vector("w", (1,), norm=9.0)},
            probes={
                "p": probe(
                    "p",
                    {0: rows[0], 3: rows[3]},
                    {"now": readout("output"), "all": readout("prompt", "max")},
                ),
                "q": probe("q", {2: rows[2]}, {"ema": readout("answer", "ema_max", 4.0)}),
            },
        ),
        (
            policy(
                "acts",
                [
                    {
                        "id": "block",
                        "phase": "prompt",
                        "when": "a >= 0.99",
                        "then": {"action": "block"},
                    },
                    {
                        "id": "steer",
                        "phase": "output",
                        "when": "b >= 0.01",
                        "then": {"action": "steer", "vector": "v", "scale": 5.0},
                    },
                ],
                {"a": "p/all", "b": "q/ema"},
            ),
            policy(
                "ends",
                [
                    {
                        "id": "stop",
                        "phase": "output",
                        "when": "c >= 0.0001 for 3 tokens",
                        "then": {"action": "block"},
                    }
                ],
                {"c": "p/now"},
            ),
        ),
    )


def answers(started: Engine) -> list[tuple[list[int], np.ndarray, int]]:
    """Tokens, all log-probabilities and cached tokens of prompts of many lengths, asked twice."""
    generator = np.random.default_rng(0)
    prompts = [generator.integers(3, 256, length).tolist() for length in LENGTHS]
    params = started.params(max_tokens=12, logprobs=-1)
    outputs = started.run(prompts, params) + started.run(prompts, params)
    return [
        (list(each.outputs[0].token_ids), all_logprobs(each), each.num_cached_tokens)
        for each in outputs
    ]


def test_untouched_outputs_equal_plain_vllm_bit_for_bit(qwen3: Path) -> None:
    with engine(qwen3, None, **CHUNKED) as plain:
        want = answers(plain)
    with engine(qwen3, loaded_plan(), **CHUNKED) as ours:
        got = answers(ours)
        assert all(record.closing for [record] in [ours.records["d"][-1:]])
    assert [cached for _, _, cached in want] == [cached for _, _, cached in got]
    assert max(cached for _, _, cached in got) >= 96
    for (want_tokens, want_TV, _), (got_tokens, got_TV, _) in zip(want, got, strict=True):
        assert got_tokens == want_tokens
        assert np.array_equal(got_TV, want_TV)
