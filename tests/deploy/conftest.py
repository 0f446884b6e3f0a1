"""Prometheus' own tools."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Return the path of a binary; without it the test is skipped, or fails where it must run."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} is not installed (on Debian: apt install prometheus)"
    if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def promtool() -> str:
    return tool("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return tool("prometheus")
