"""The unit tier: which tests belong to it, and what it refuses to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.unit_tier import CHECKOUT, TESTS, HeavyImport, ImportGuard, is_unit, unit_modules

LOADS = """
import importlib, sys
from tests.support.unit_tier import HEAVY, ImportGuard, unit_modules, CHECKOUT
sys.meta_path.insert(0, ImportGuard())
for file in unit_modules():
    importlib.import_module(".".join(file.relative_to(CHECKOUT).with_suffix("").parts))
print(*sorted(HEAVY & set(sys.modules)))
"""


def test_the_tier_loads_without_torch_and_vllm() -> None:
    """What the graph of imports says of the modules holds when they are loaded in one process."""
    done = subprocess.run(
        [sys.executable, "-c", LOADS], cwd=CHECKOUT, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("room", ["policy", "edits", "probes", "artifacts", "telemetry"])
def test_rooms_without_torch_are_in_the_tier(room: str) -> None:
    assert any(TESTS / room in each.parents for each in unit_modules())
    assert is_unit(TESTS / "test_house.py")
    assert is_unit(TESTS / "test_record.py")


def test_what_starts_an_engine_or_a_server_is_not_in_the_tier() -> None:
    assert not is_unit(TESTS / "engine" / "test_parity.py")
    assert not is_unit(TESTS / "server" / "test_http.py")


@pytest.mark.parametrize("module", ["torch", "vllm.v1.core", "transformers"])
def test_the_guard_refuses_a_heavy_package_and_says_what_to_do(module: str) -> None:
    with pytest.raises(HeavyImport, match="mark the test `heavy`"):
        ImportGuard().find_spec(module)
    assert ImportGuard().find_spec("json") is None
