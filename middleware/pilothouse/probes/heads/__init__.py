"""The heads of probes, from activations to logits: one file each, found by its being here.

A file registers its class when it is imported. There is no list of them to keep.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from pilothouse.probes.heads.base import (
    HEADS,
    HiddenLayer,
    ProbeHead,
    TapReads,
    make_head,
    read_tokens,
    register_head,
)
from pilothouse.probes.heads.pooling import Pooling

__all__ = [
    "HEADS",
    "HiddenLayer",
    "Pooling",
    "ProbeHead",
    "TapReads",
    "make_head",
    "read_tokens",
    "register_head",
]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
