"""Difference of means: the mean positive state less the mean negative one."""

from __future__ import annotations

from pilothouse.errors import ConfigError
from pilothouse.training.method import Fitted, register
from pilothouse.training.sample import Sample


def mean_difference(sample: Sample) -> Fitted:
    """The difference, at its own length.

    Raises:
        ConfigError: there is none.
    """
    direction_D = (sample.positive_NF - sample.negative_NF).mean(axis=0)
    if not direction_D.any():
        raise ConfigError("fit: positives and negatives do not differ; write pairs that do")
    return Fitted(direction_D)


register("difference-of-means", mean_difference)
