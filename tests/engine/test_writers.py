"""Ablation of one direction at everything that writes to the residual stream.

Shape suffixes: T positions, D hidden size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.errors import ConfigError, RequestError
from pilothouse.term import SteerTerm
from tests.reference import operators as oracle
from tests.reference.hf_sites import SiteModel
from tests.support.engines.catalogs import policy, probe, readout, vector
from tests.support.engines.harness import Engine, all_logprobs, engine, make_plan
from tests.support.models.tiny_architectures import NUM_LAYERS, make_architecture

PROMPT = np.random.default_rng(8).integers(3, 256, 17).tolist()
V = vector("v", (1, 2), seed=4, norm=3.0)
DIRECTION = V.directions_LD[1] / np.linalg.norm(V.directions_LD[1])
TERM = {"vector": "v", "op": "ablate", "sites": "writers", "layers": [2], "on": "all"}
CATALOGUE = Catalog(
    vectors={"v": V},
    probes={
        f"along{layer}": probe(f"along{layer}", {layer: DIRECTION}, {"all": readout("prompt")})
        for layer in range(NUM_LAYERS)
    }
    | {"first": probe("first", {0: DIRECTION}, {"all": readout("prompt")}, site="embed")},
)
NAMED = {"v": {"path": "v"}}
PROFILES = {"tiny:free": {"steer": [TERM]}}
ALWAYS = policy(
    "always",
    [
        {
            "id": "r",
            "phase": "prompt",
            "when": "x >= 0.000001",
            "then": {
                "action": "steer",
                "vector": "v",
                "op": "ablate",
                "sites": "writers",
                "layers": [2],
            },
        }
    ],
    {"x": "first/all"},
)

pytestmark = pytest.mark.engine


def ablated(values_TD: np.ndarray, start: int = 0) -> np.ndarray:
    edited_TD = values_TD.copy()
    edited_TD[start:] = [oracle.ablate(value_D, DIRECTION) for value_D in values_TD[start:]]
    return edited_TD


def edits(start: int = 0):
    added = [(layer, site) for layer in range(NUM_LAYERS) for site in ("attn_out", "mlp_out")]
    return {place: lambda h: ablated(h, start) for place in [(0, "resid_pre"), *added]}


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2"])
def test_the_stream_never_has_what_is_ablated_where_it_is_written(
    name: str, tmp_path: Path
) -> None:
    make_architecture(tmp_path, name)
    reference = SiteModel(tmp_path, name)
    plan = make_plan(CATALOGUE, [ALWAYS], vectors=NAMED, profiles=PROFILES)
    with engine(tmp_path, plan) as started:
        watched = {"probes": list(CATALOGUE.probes)}
        for key, sealed in {
            "profile": {"steer": [SteerTerm.model_validate(TERM)]} | watched,
            "policy": {"policies": ["always"]},
            "plain": watched,
        }.items():
            params = started.params(max_tokens=4, logprobs=-1, decision_id=key, **sealed)
            started.add(key, PROMPT, params)
        outputs = started.drain()
        for key, start in {"profile": 0, "policy": len(PROMPT)}.items():
            tokens = [*PROMPT, *outputs[key].outputs[0].token_ids]
            want_TV = reference.run(tokens, edits(start)).logprobs_TV[len(PROMPT) - 1 : -1]
            plain_TV = reference.run(tokens).logprobs_TV[len(PROMPT) - 1 : -1]
            assert np.abs(all_logprobs(outputs[key]) - want_TV).max() <= 1e-4
            assert np.abs(want_TV - plain_TV).max() >= 0.05
        assert np.abs(along(started, "profile")).max() <= 1e-5
        assert np.abs(along(started, "plain")).max() >= 0.1


def along(started: Engine, request: str) -> np.ndarray:
    """What each layer's stream had of the direction, at every position that was fed."""
    assert started.plan is not None
    columns = [started.plan.body.probes[f"along{i}"].columns[0] for i in range(NUM_LAYERS)]
    return np.stack(list(started.reads(request).values()))[:, columns]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"op": "add", "scale": 1.0}, "got 'writers' with 'add', want it with 'ablate'"),
        ({"layers": None}, r"has one at each of layers \[1, 2\]: choose one with"),
        ({"layers": [3]}, r"got 3, want any of \[1, 2\]"),
    ],
)
def test_writers_take_the_ablation_of_one_direction(change: dict, complaint: str) -> None:
    with pytest.raises((ConfigError, RequestError), match=complaint):
        make_plan(CATALOGUE, vectors=NAMED, profiles={"tiny:free": {"steer": [TERM | change]}})
