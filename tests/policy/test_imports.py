"""Policies can be read, tested and linted where no engine is installed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pilothouse.policy

HEAVY = ("torch", "vllm", "fastapi", "starlette", "transformers", "safetensors")


def test_every_policy_module_loads_without_torch_vllm_and_fastapi() -> None:
    modules = [
        f"pilothouse.policy.{each.name}"
        for each in pkgutil.iter_modules(pilothouse.policy.__path__)
    ]
    assert "pilothouse.policy.rulebook" in modules
    program = (
        "import importlib, sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
