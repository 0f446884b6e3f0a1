"""Foreign vector files, read without executing anything: one file each, found by its being here.

A file registers its format when it is imported. There is no list of them to keep. Only the offline
verb `pilothouse vector import` comes here: what is served is our own artefact.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from pilothouse.artifacts.vectors.registry import FORMATS, Format, read_foreign, register

__all__ = ["FORMATS", "Format", "read_foreign", "register"]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
