"""The ways to make one number of token scores: one file each, found by its being here.

A file registers its class when it is imported. There is no list of them to keep.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from pilothouse.probes.aggregators.base import (
    AGGREGATORS,
    Aggregator,
    Floats,
    make_aggregator,
    register_aggregator,
)

__all__ = ["AGGREGATORS", "Aggregator", "Floats", "make_aggregator", "register_aggregator"]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
