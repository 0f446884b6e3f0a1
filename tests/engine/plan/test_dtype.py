"""Which numbers a model runs in where nobody says it, on each kind of machine."""

from __future__ import annotations

import json
import platform
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from vllm.platforms import current_platform

from pilothouse.engine.plan import dtype
from pilothouse.engine.plan.dtype import missing_bfloat16, usual_dtype


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A configuration; no weights are read."""
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def machine(
    patch: pytest.MonkeyPatch,
    name: str,
    *,
    is_cpu: bool = True,
    bf16: bool = False,
    amx: bool = False,
) -> None:
    patch.setattr(platform, "machine", lambda: name)
    patch.setattr(type(current_platform), "is_cpu", lambda _: is_cpu)
    patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize(
    ("is_cpu", "bf16", "amx", "name"),
    [
        (True, False, False, "float32"),
        (True, True, False, "auto"),
        (True, False, True, "auto"),
        (False, False, False, "auto"),
    ],
)
def test_bfloat16_is_left_to_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, model: Path, is_cpu: bool, bf16: bool, amx: bool, name: str
) -> None:
    machine(monkeypatch, "x86_64", is_cpu=is_cpu, bf16=bf16, amx=amx)
    usual = usual_dtype(Namespace(model=str(model)))
    assert usual.name == name
    assert ("AVX512-BF16" in usual.why) == (name == "float32")


@pytest.mark.parametrize(("features", "name"), [("fp asimd", "float32"), ("fp bf16", "auto")])
def test_an_arm_processor_says_it_itself(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path, features: str, name: str
) -> None:
    machine(monkeypatch, "aarch64")
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nFeatures\t: {features}\n")
    monkeypatch.setattr(dtype, "CPUINFO", tmp_path / "cpuinfo")
    assert usual_dtype(Namespace(model=str(model))).name == name


def test_of_another_processor_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "riscv64")
    assert missing_bfloat16() is None


def test_a_quantised_checkpoint_says_it_itself(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    machine(monkeypatch, "x86_64")
    asked = Namespace(model=str(model), quantization="awq")
    assert usual_dtype(asked).name == "auto"
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (model / "config.json").write_text(json.dumps(config))
    usual = usual_dtype(Namespace(model=str(model)))
    assert (usual.name, "quantised" in usual.why) == ("auto", True)
