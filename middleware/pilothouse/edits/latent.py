"""The code of a feature that is chosen with all others: what a row reads in place of the stream.

The SAE of such a feature is resident at its tap: each token is encoded there once, and rows name a
feature. A program carries the SAE's digest, never its weights.
"""

from __future__ import annotations

from typing import NamedTuple


class Latent(NamedTuple):
    """A feature of a resident SAE, which is named by its digest."""

    sae: str
    feature: int
    is_linear: bool = True
    """What is written is the code times a direction, whatever the other codes are."""
