"""Activations with a planted signal, so that what a fit must find is known."""

from __future__ import annotations

import numpy as np

from pilothouse.probes.dataset import Dataset, Example, dataset_of

D_MODEL = 24
LAYERS = (2, 4, 6)
SIGNAL_LAYER = 4
FAMILIES = ("plain", "story", "cipher")


def direction() -> np.ndarray:
    drawn = np.random.default_rng(99).normal(size=D_MODEL)
    return np.asarray(drawn / np.linalg.norm(drawn))


def planted(
    count: int, seed: int, *, strength: float = 5.0, everywhere: bool = False, tag: str = ""
) -> Dataset:
    """Sequences of which the positives carry a direction at layer 4, on one token or on all.

    Layers have other means and scales, so that a fit that forgets to standardise, or to fold the
    standardisation back, goes wrong.
    """
    generator = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        tokens = int(generator.integers(3, 12))
        label = bool(generator.integers(2))
        hidden = generator.normal(size=(tokens, len(LAYERS), D_MODEL))
        if label:
            first = 0 if everywhere else int(generator.integers(tokens))
            last = tokens if everywhere else first + 1
            hidden[first:last, LAYERS.index(SIGNAL_LAYER)] += strength * direction()
        hidden = hidden * np.array([1.0, 30.0, 0.1])[:, None] + np.array([5.0, -40.0, 2.0])[:, None]
        examples.append(
            Example(
                hidden_TLD=hidden.astype(np.float32),
                prompt_tokens=tokens,
                label=label,
                group=f"{tag or seed}-{index // 2}",
                family=FAMILIES[index % len(FAMILIES)],
                text=f"word{generator.integers(9)} word{generator.integers(9)}",
                mean_log_probability=float(generator.normal()),
            )
        )
    return dataset_of(examples, LAYERS)
