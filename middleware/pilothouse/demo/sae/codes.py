"""Codes of many rows, which are nearly all 0, as a sparse matrix.

Shape suffixes: R rows, D width of the stream, M features.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.demo.sae.stream import Halves
from pilothouse.edits.sae_codes import encode
from pilothouse.progress import Phase

PART: Final = 2048


def codes_of(sae: Sae, hidden_RD: Halves, phase: Phase) -> Any:
    """Return codes_RM, scipy's compressed columns: what is asked for is a feature's codes."""
    from scipy.sparse import csr_array, vstack

    advance = phase("codes, tokens", len(hidden_RD))
    parts = []
    for start in range(0, len(hidden_RD), PART):
        part_RD = np.asarray(hidden_RD[start : start + PART], np.float64)
        parts.append(csr_array(encode(sae, part_RD).astype(np.float32)))
        advance(len(part_RD))
    return vstack(parts).tocsc()
