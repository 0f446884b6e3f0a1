"""What a direction is measured against, and how steady it is.

Shape suffixes: D width of the site, B refits.
"""

from __future__ import annotations

import numpy as np

from pilothouse.errors import ConfigError
from pilothouse.training.method import Method
from pilothouse.training.sample import Floats, Sample


def random_direction(length: float, width: int, generator: np.random.Generator) -> Floats:
    """A direction that nobody chose, at a given length."""
    direction_D = generator.normal(size=width)
    return direction_D * (length / float(np.linalg.norm(direction_D)))


def shuffled_direction(
    method: Method, sample: Sample, length: float, generator: np.random.Generator
) -> Floats:
    """What a method makes of states whose sides were dealt out anew, at a given length."""
    direction_D = method(sample.shuffled(generator)).direction_D
    return direction_D * (length / float(np.linalg.norm(direction_D)))


def bootstrap_cosines(
    method: Method, sample: Sample, resamples: int, generator: np.random.Generator
) -> Floats:
    """Cosines [B] of refits on resampled groups with the direction of the whole sample.

    A resample on which the method cannot be fitted counts as 0.
    """
    whole_D = method(sample).direction_D
    return np.array(
        [_cosine(whole_D, method, sample.resampled(generator)) for _ in range(resamples)]
    )


def _cosine(whole_D: Floats, method: Method, sample: Sample) -> float:
    try:
        other_D = method(sample).direction_D
    except ConfigError:
        return 0.0
    return float(whole_D @ other_D / (np.linalg.norm(whole_D) * np.linalg.norm(other_D)))
