"""The kinds of tables on a device: a file each, found by its being here, as in `edit.ops`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from pilothouse.engine.worker.device_table import DEVICE_KINDS, held_kinds

__all__ = ["DEVICE_KINDS", "held_kinds"]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
