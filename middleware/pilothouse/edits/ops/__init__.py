"""The operators and the kinds of tables that they fill: one file each, found by its being here.

A file registers what it has when it is imported. There is no list of them to keep.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from pilothouse.edits.table import KINDS, known_flags

__all__ = ["KINDS", "known_flags"]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
