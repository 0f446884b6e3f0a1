"""The training recipe: all that decides the SAE's weights, beside the model and the texts."""

from __future__ import annotations

from typing import Final, Literal

from pilothouse.artifacts.manifest import Closed

NAME: Final = "smol-l15"
MAX_BYTES: Final = 8_000_000
"""The most that the weights may take on disk."""
MAX_TOKENS: Final = 256
"""Tokens of a text that are read; what is behind them is left out."""
OUTLIER: Final = 4.0
"""A token whose stream is longer than so many times the median is no part of what is learned."""

Architecture = Literal["batchtopk", "matryoshka_batchtopk"]


class Recipe(Closed):
    """How the SAE is trained. Figures of another recipe are figures of another SAE."""

    layer: int = 15
    features: int = 3456
    """As many as two matrices of float16 have room for in `MAX_BYTES`."""
    architecture: Architecture = "batchtopk"
    widths: tuple[int, ...] = ()
    """The sizes of nested SAEs, where the architecture has them."""
    k: float = 50.0
    """Features that are on at a token, on the mean: as many as the published ones have."""
    epochs: int = 3
    batch: int = 1024
    learning_rate: float = 8e-4
    last_learning_rate: float = 5e-5
    warm_up_steps: int = 50
    dead_after_steps: int = 150
    threshold_rate: float = 0.03
    """How fast the threshold that is kept for inference follows that of the batches."""
    seed: int = 0
