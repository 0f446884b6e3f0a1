"""Small valid artefacts for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.artifacts.folder import artefact_digest
from pilothouse.artifacts.manifest import Readout, ReadoutAggregate
from pilothouse.artifacts.probe import Probe, build_probe
from pilothouse.artifacts.vector import Vector, build_vector

D_MODEL = 8


def vector(name: str = "cheerful", seed: int = 0, layers: tuple[int, ...] = (2, 4)) -> Vector:
    generator = np.random.default_rng(seed)
    return build_vector(
        name,
        model_id="demo",
        layers=layers,
        directions_LD=generator.normal(size=(len(layers), D_MODEL)).astype(np.float32),
        residual_norms_L=generator.uniform(2, 5, len(layers)).astype(np.float32),
        created_by="a test",
    )


def readout(**changes: Any) -> Readout:
    fields: dict[str, Any] = {
        "scope": "prompt",
        "aggregate": ReadoutAggregate(kind="max"),
        "slope": 1.5,
        "offset": -0.5,
        "prior": 0.5,
    }
    return Readout(**(fields | changes))


def probe(name: str = "misuse", seed: int = 1, **changes: Any) -> Probe:
    fields: dict[str, Any] = {
        "model_id": "demo",
        "layers": (4,),
        "bias": 0.25,
        "token_slope": 1.0,
        "token_offset": 0.0,
        "readouts": {"prompt_max": readout()},
        "default_readout": "prompt_max",
        "created_by": "a test",
        "weights_LD": np.random.default_rng(seed).normal(size=(1, D_MODEL)).astype(np.float32),
    }
    return build_probe(name, **(fields | changes))


def edit_manifest(folder: Path, change: Any, *, sign: bool = True) -> None:
    """Change a folder's manifest in place; `sign` makes its digest right again."""
    place = folder / "manifest.json"
    raw = json.loads(place.read_text())
    change(raw)
    if sign:
        weights = (folder / "weights.safetensors").read_bytes()
        raw["digest"] = artefact_digest(raw, weights)
    place.write_text(json.dumps(raw))


def replace_weights(folder: Path, weights: bytes) -> None:
    """Put other weights into a folder and declare them rightly."""
    import hashlib

    (folder / "weights.safetensors").write_bytes(weights)

    def declare(raw: dict[str, Any]) -> None:
        raw["weights_bytes"] = len(weights)
        raw["weights_sha256"] = hashlib.sha256(weights).hexdigest()

    edit_manifest(folder, declare)
