"""Models and engines shared by the tests of a module."""

from __future__ import annotations

import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import pytest
from hypothesis import settings

from tests.support.models.tiny_architectures import make_architecture

settings.register_profile("engine", deadline=None)
settings.load_profile("engine")


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory):
    """A tiny random Qwen3 in float32."""
    return make_architecture(tmp_path_factory.mktemp("qwen3"), "qwen3")
