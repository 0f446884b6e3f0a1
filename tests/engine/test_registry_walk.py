"""How many of the architectures that vLLM's registry names can be tapped here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.engines.own_process import said_by
from tests.support.models.small_config import LAYERS, shrink

QUICK = (
    "LlamaForCausalLM",
    "ApertusForCausalLM",
    "BloomForCausalLM",
    "Exaone4ForCausalLM",
    "InternLM2ForCausalLM",
    "SmolLM3ForCausalLM",
    "Qwen3NextForCausalLM",
)
"""In the table, or found by structure: deferred or not, norms before or behind, hybrid."""
TEXT_FLOOR = 97
MULTIMODAL_FLOOR = 15


def walked(tmp_path: Path, *arguments: str) -> list[dict[str, str]]:
    """The program's visits; its summary is printed."""
    target = tmp_path / "visits.json"
    said = said_by(
        "tests.support.engines.registry_walk", tmp_path, *arguments, "--json", str(target)
    )
    sys.stdout.write(said[said.index(" architectures: ") - 4 :])
    visits: list[dict[str, str]] = json.loads(target.read_text())
    return visits


def passed(visits: list[dict[str, str]]) -> list[str]:
    return [each["architecture"] for each in visits if each["status"] == "passed"]


@pytest.mark.engine
def test_a_handful_of_architectures_passes_the_self_check(tmp_path: Path) -> None:
    visits = walked(tmp_path, *QUICK)
    assert passed(visits) == list(QUICK), [each["reason"] for each in visits]


@pytest.mark.engine
def test_blocks_that_are_passed_twice_are_refused(tmp_path: Path) -> None:
    visit = walked(tmp_path, "IQuestLoopCoderForCausalLM")[0]
    assert visit["status"] == "refused"
    assert "called more than once in a forward pass" in visit["reason"]


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_text_models_of_the_registry(tmp_path: Path) -> None:
    assert len(passed(walked(tmp_path))) >= TEXT_FLOOR


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_language_models_inside_multimodal_models(tmp_path: Path) -> None:
    assert len(passed(walked(tmp_path, "--multimodal"))) >= MULTIMODAL_FLOOR


def test_a_small_configuration_keeps_every_kind_of_layer() -> None:
    raw = {
        "num_hidden_layers": 6,
        "layer_types": ["a", "a", "a", "b", "a", "a"],
        "text_config": {"hidden_size": 4096, "num_hidden_layers": 32},
        "attention_dropout": 0.5,
    }
    small = shrink(raw)
    assert small["num_hidden_layers"] == LAYERS
    assert small["layer_types"] == ["a", "b", "a", "b"]
    assert small["text_config"]["hidden_size"] == 128
    assert small["attention_dropout"] == 0.5
