"""A pilothouse.yaml around the tiny model whose verdicts are certain.

The probe `always` has a bias that swamps its weights, so each of its readouts is near 1 whatever
the text; `never` is its mirror; `vary` truly reads the model. Each profile `small:<policy>` brings
one enforced policy to bear, and every other name brings only the one in shadow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pilothouse.artifacts.manifest import Readout, ReadoutAggregate
from pilothouse.artifacts.probe import build_probe, save_probe
from pilothouse.artifacts.vector import build_vector, save_vector
from pilothouse.types import Site
from tests.support.artifacts.tiny_sae import FEATURES, LABEL, LOUD, save_topics
from tests.support.models.tiny_model import D_MODEL, make_tiny_model

SERVED_NAME = "small"
TENANT = "acme"
TENANT_HEADER = "x-team"
PROXY_ADDRESS = "127.7.7.7"
"""Whoever connects from here may name the tenant."""
KNOWN_ORIGIN = "https://page.example"
MODEL_ID = "tiny"
PROBE_LAYER = 1
VECTOR_LAYER = 3
MESSAGE = "The tiny policy has spoken."
CANNED = "The tiny policy answers instead."
LEAKED_TOKENS = 3
RESIDUAL_NORM = 250.0
"""Of this model at the vector's layer, about; the vector itself is about 10 long."""
STRONG = 20.0
"""A scale that surely changes greedy answers."""

EVERY_FEATURE = list(range(FEATURES))

_BLOCK = {"action": "block", "as": "refusal", "message": MESSAGE}
RULES: dict[str, dict[str, Any]] = {
    "prompt-refusal": {"phase": "prompt", "then": _BLOCK},
    "prompt-error": {"phase": "prompt", "then": {**_BLOCK, "as": "error"}},
    "prompt-respond": {"phase": "prompt", "then": {"action": "respond", "message": CANNED}},
    "output-refusal": {"phase": "output", "then": _BLOCK},
    "output-late": {
        "phase": "output",
        "then": _BLOCK,
        "streak": LEAKED_TOKENS + 1,
        "leak_tokens": LEAKED_TOKENS,
    },
    "output-respond": {"phase": "output", "then": {"action": "respond", "message": CANNED}},
    "final-refusal": {"phase": "final", "then": _BLOCK},
    "final-respond": {"phase": "final", "then": {"action": "respond", "message": CANNED}},
    "final-passes": {"phase": "final", "then": _BLOCK, "probe": "never"},
    "output-passes": {"phase": "output", "then": _BLOCK, "probe": "never"},
    "steers": {
        "phase": "output",
        "then": {"action": "steer", "vector": "nudge", "scale": STRONG},
    },
    "logs": {
        "phase": "output",
        "then": {"action": "log", "features": {"sae": "topics", "top": 4, "of": EVERY_FEATURE}},
    },
    "logs-late": {
        "phase": "final",
        "then": {"action": "log", "features": {"sae": "topics"}},
    },
    "features": {
        "phase": "output",
        "then": {"action": "steer", "sae": "topics", "feature": [3, 5], "value": LOUD},
    },
}
PROFILES = tuple(f"{SERVED_NAME}:{name}" for name in RULES)
PLAIN_PROFILE = f"{SERVED_NAME}:plain"
FEATURE_PROFILE = f"{SERVED_NAME}:tide"


def make_tiny_house(folder: Path, *, grants: bool = True, **gate: Any) -> Path:
    """Write model, artefacts, policies and pilothouse.yaml; returns the last."""
    make_tiny_model(folder / "model")
    save_nudge(folder, "nudge")
    topics = save_topics(folder, "topics", VECTOR_LAYER, norm=RESIDUAL_NORM)
    for name, bias, size in (("always", 20.0, 1e-6), ("never", -20.0, 1e-6), ("vary", 0.0, 0.05)):
        _probe(folder, name, bias, size)
    for name, rule in RULES.items():
        _policy(folder, name, rule)
    _shadow(folder)
    _of_tenant(folder)
    return _config(folder, topics, grants, gate)


def save_nudge(
    folder: Path,
    name: str,
    *,
    seed: int = 5,
    layer: int = VECTOR_LAYER,
    site: Site = "resid_post",
    model_id: str = MODEL_ID,
) -> Path:
    """Write a random vector of one layer to `folder/vectors/name`, and return that."""
    direction_D = np.random.default_rng(seed).normal(size=(1, D_MODEL)).astype(np.float32)
    vector = build_vector(
        name,
        model_id=model_id,
        layers=(layer,),
        directions_LD=direction_D,
        residual_norms_L=np.array([RESIDUAL_NORM], np.float32),
        created_by="a test",
        site=site,
    )
    save_vector(vector, folder / "vectors" / name)
    return folder / "vectors" / name


def _probe(folder: Path, name: str, bias: float, size: float) -> None:
    weights_LD = np.random.default_rng(7).normal(size=(1, D_MODEL)).astype(np.float32) * size
    readouts = {
        scope: Readout(
            scope=scope,
            aggregate=ReadoutAggregate(kind="last" if scope == "output" else "max"),
            slope=1.0,
            offset=0.0,
            prior=0.5,
        )
        for scope in ("prompt", "output", "answer")
    }
    probe = build_probe(
        name,
        model_id=MODEL_ID,
        layers=(PROBE_LAYER,),
        weights_LD=weights_LD,
        bias=bias,
        token_slope=1.0,
        token_offset=0.0,
        readouts=readouts,
        default_readout="prompt",
        created_by="a test",
    )
    save_probe(probe, folder / "probes" / name)


def _policy(folder: Path, name: str, rule: dict[str, Any]) -> None:
    readout = "prompt" if rule["phase"] == "prompt" else "output"
    streak = f" for {rule['streak']} tokens" if "streak" in rule else ""
    entry = {"id": "rule", "phase": rule["phase"], "when": f"seen >= 0.5{streak}"}
    entry["then"] = rule["then"]
    if "leak_tokens" in rule:
        entry["leak_tokens"] = rule["leak_tokens"]
    spec = {
        "mode": "enforce",
        "match": {"profiles": [f"{SERVED_NAME}:{name}"]},
        "signals": {"seen": {"probe": rule.get("probe", "always"), "readout": readout}},
        "rules": [entry],
    }
    _write_policy(folder, name, spec)


def _shadow(folder: Path) -> None:
    spec = {
        "mode": "shadow",
        "signals": {
            "seen": {"probe": "always", "readout": "prompt"},
            "read": {"probe": "vary", "readout": "output"},
        },
        "rules": [
            {"id": "would", "phase": "prompt", "when": "seen >= 0.5", "then": {"action": "block"}},
            {"id": "note", "phase": "final", "when": "read >= 0.0001", "then": {"action": "log"}},
        ],
    }
    _write_policy(folder, "watch", spec)


def _of_tenant(folder: Path) -> None:
    spec = {
        "mode": "enforce",
        "match": {"tenants": [TENANT]},
        "signals": {"seen": {"probe": "always", "readout": "prompt"}},
        "rules": [
            {"id": "rule", "phase": "prompt", "when": "seen >= 0.5", "then": _BLOCK},
        ],
    }
    _write_policy(folder, "of-tenant", spec)


def _write_policy(folder: Path, name: str, spec: dict[str, Any]) -> None:
    policy = {
        "apiVersion": "pilothouse/v1",
        "kind": "Policy",
        "metadata": {
            "name": name,
            "title": name,
            "category": "operations",
            "severity": "low",
            "description": "For tests.",
        },
        "spec": spec,
    }
    place = folder / "policies" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "policy.yaml").write_text(yaml.safe_dump(policy))


def _config(folder: Path, topics: Any, grants: bool, gate: dict[str, Any]) -> Path:
    steer = [{"vector": "nudge", "scale": 0.001}]
    tide = [{"sae": "topics", "feature": LABEL, "value": 3.0, "unit": "max_act"}]
    config = {
        "version": 1,
        "model_id": MODEL_ID,
        "vectors": {"nudge": {"path": "vectors/nudge"}},
        "probes": {name: {"path": f"probes/{name}"} for name in ("always", "never", "vary")},
        "policies": ["policies"],
        "saes": {"topics": topics},
        "profiles": {name: {"steer": steer} for name in (*PROFILES, PLAIN_PROFILE)}
        | {FEATURE_PROFILE: {"steer": tide}},
        "taps": {"operators": ["add", "feature"]},
        "limits": {"max_programs": 4, "max_norm_ratio": 2.0},
        "auth": {
            "client_steering": grants,
            "client_scores": grants,
            "trusted_proxies": {
                "cidrs": [f"{PROXY_ADDRESS}/32"],
                "tenant_header": TENANT_HEADER,
            },
        },
        "gate": gate,
    }
    path = folder / "pilothouse.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    return path
