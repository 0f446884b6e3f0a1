"""An SAE of the tiny house: random, in SAELens' layout, with largest codes and labels.

Shapes: D width, M features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files
from tests.support.models.tiny_model import D_MODEL

FEATURES = 48
FEATURE = 7
"""The one that has a label of its own."""
LABEL = "the tide"
MAX_ACT = 60.0
LOUD = 200.0
"""A code that surely changes greedy answers; rows are of length 1, the stream of about 250."""


def save_topics(folder: Path, name: str, layer: int, *, seed: int = 4, norm: float) -> Any:
    """Write an SAE to `folder/saes/name`; the entry of a configuration that loads it."""
    draw = np.random.default_rng(seed)
    rows_MD = draw.normal(size=(FEATURES, D_MODEL))
    rows_MD /= np.linalg.norm(rows_MD, axis=1, keepdims=True)
    made = Book(
        W_enc=rows_MD.T,
        W_dec=rows_MD,
        b_dec=np.zeros(D_MODEL),
        b_enc=np.zeros(FEATURES),
        form="jumprelu",
        threshold=np.full(FEATURES, 5.0),
    )
    place = files.saelens(
        folder / "saes" / name,
        made,
        d_in=D_MODEL,
        d_sae=FEATURES,
        metadata={"model_name": "tiny", "hook_name": f"blocks.{layer}.hook_resid_post"},
    )
    files.save(place / "features.safetensors", {"max_act": np.full(FEATURES, MAX_ACT)})
    labels = {str(FEATURE): LABEL, "8": "tides", "9": "boats", "10": "boats"}
    files.write_json(place / "labels.json", labels)
    return {"path": f"saes/{name}", "average_norm": norm}
