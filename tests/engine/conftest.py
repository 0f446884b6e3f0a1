"""Models and engines shared by the tests of a module."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import pytest


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny random Qwen3 in float32."""
    # Imported here, so that the tests of this folder that need no torch do without it.
    from tests.support.models.tiny_architectures import make_architecture

    return make_architecture(tmp_path_factory.mktemp("qwen3"), "qwen3")
