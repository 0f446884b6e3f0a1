"""Catalogues for the engine tests: vectors of known rows, probes made to fire at chosen tokens.

Shape suffixes: T positions, D hidden size, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pilothouse.artifacts.manifest import Readout
from pilothouse.artifacts.probe import Probe, build_probe
from pilothouse.artifacts.vector import Vector, build_vector
from pilothouse.head import Head
from pilothouse.policy.loader import policy_from_json
from pilothouse.policy.schema import Policy
from pilothouse.types import Site
from tests.support.engines.harness import random_rows

FIRES, QUIET = 12.0, -12.0


def vector(
    name: str, layers: Sequence[int], *, seed: int = 0, norm: float = 1.0, d_model: int = 64
) -> Vector:
    """A vector with random directions of a given length; residual norms differ by layer."""
    return build_vector(
        name,
        model_id="tiny",
        layers=tuple(layers),
        directions_LD=random_rows(seed, len(layers), d_model, norm),
        residual_norms_L=np.array([5.0 + layer for layer in layers], np.float32),
        created_by="tests",
    )


def readout(
    scope: str, kind: str = "last", half_life: float | None = None, **parameters: float
) -> Readout:
    """A readout whose value is the sigmoid of its aggregated logit."""
    aggregate: dict[str, Any] = {"kind": kind} | parameters
    if half_life is not None:
        aggregate["half_life_tokens"] = half_life
    return Readout(scope=scope, aggregate=aggregate, slope=1.0, offset=0.0, prior=0.5)


def probe(
    name: str,
    weights: Mapping[int, np.ndarray],
    readouts: Mapping[str, Readout],
    bias: float = 0.0,
    site: Site = "resid_post",
) -> Probe:
    """A probe with given rows by layer."""
    return build_probe(
        name,
        model_id="tiny",
        layers=tuple(sorted(weights)),
        weights_LD=np.stack([weights[layer] for layer in sorted(weights)]).astype(np.float32),
        bias=bias,
        token_slope=1.0,
        token_offset=0.0,
        readouts=readouts,
        default_readout=next(iter(readouts)),
        created_by="tests",
        site=site,
    )


def headed_probe(
    name: str,
    layers: Sequence[int],
    head: Head,
    readouts: Mapping[str, Readout],
    *,
    bias: float = 0.0,
    seed: int = 0,
    scale: float = 0.05,
    d_model: int = 64,
) -> Probe:
    """A probe of any head with random weights."""
    generator = np.random.default_rng(seed)
    shapes = head.shapes(layers=len(layers), width=d_model)
    return build_probe(
        name,
        model_id="tiny",
        layers=tuple(layers),
        head=head,
        arrays={
            key: (scale * generator.normal(size=shape)).astype(np.float32)
            for key, shape in shapes.items()
        },
        bias=bias,
        token_slope=1.0,
        token_offset=0.0,
        readouts=readouts,
        default_readout=next(iter(readouts)),
        created_by="tests",
    )


def firing_row(stream_TD: np.ndarray, fires_at: Sequence[int]) -> np.ndarray:
    """A read row whose logit is FIRES at some positions of a known sequence, else QUIET.

    Needs fewer positions than hidden dimensions: then the least squares solution is exact.
    """
    wanted_T = np.full(len(stream_TD), QUIET)
    wanted_T[list(fires_at)] = FIRES
    row_D, *_ = np.linalg.lstsq(stream_TD.astype(np.float64), wanted_T, rcond=None)
    assert np.abs(stream_TD @ row_D - wanted_T).max() < 1.0, "too many positions for this width"
    return row_D.astype(np.float32)


def policy(
    name: str, rules: Sequence[Mapping[str, Any]], signals: Mapping[str, str], **spec: Any
) -> Policy:
    """An enforced policy; `signals` maps a name to `probe/readout`."""
    named = {
        key: dict(zip(("probe", "readout"), path.split("/"), strict=True))
        for key, path in signals.items()
    }
    return policy_from_json(
        {
            "apiVersion": "pilothouse/v1",
            "kind": "Policy",
            "metadata": {
                "name": name,
                "title": name,
                "category": "conduct",
                "severity": "low",
                "description": name,
            },
            "spec": {"mode": "enforce", "signals": named, "rules": list(rules)} | spec,
        }
    )
