"""The methods by name. Each turns a sample into a direction, with positives where it points.

Shape suffixes: D width of the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pilothouse.errors import ConfigError
from pilothouse.training.sample import Floats, Sample

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A direction, float64 [D], and what the method has to say of it (plain numbers and lists)."""

    direction_D: Floats
    facts: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


Method = Callable[[Sample], Fitted]
METHODS: dict[str, Method] = {}


def register(name: str, method: Method) -> None:
    """Add a method.

    Raises:
        ConfigError: the name is taken.
    """
    if name in METHODS:
        raise ConfigError(f"method {name!r} is registered twice; give one another name")
    METHODS[name] = method


def along(unit_D: Floats, sample: Sample) -> Floats:
    """A direction at the length of the mean gap along it, so that a scale of 1 closes the gap.

    Raises:
        ConfigError: positives and negatives do not differ along it.
    """
    gap = float((sample.positive_NF - sample.negative_NF).mean(axis=0) @ unit_D)
    if not np.isfinite(gap) or gap == 0.0:
        raise ConfigError("fit: positives and negatives do not differ; write pairs that do")
    return gap * unit_D
