"""Every way to ask the demo for what it must not say; each module enters its own doors."""

from __future__ import annotations

from typing import Final

from tests.support.attacks import (
    closed_routes,
    fields,
    forced,
    histories,
    raw_prompts,
    responses,
    token_rules,
    turns,
)
from tests.support.attacks.registry import DOORS, SHUT, Draw, Knock

__all__ = ["DOORS", "MODULES", "SHUT", "Draw", "Knock"]

MODULES: Final = (
    turns,
    histories,
    raw_prompts,
    forced,
    token_rules,
    fields,
    responses,
    closed_routes,
)
"""Importing one is what enters its doors."""
