"""A control vector's hint is a model's type, in transformers' naming or llama.cpp's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf.constants import MODEL_ARCH_NAMES
from transformers import CONFIG_MAPPING

from pilothouse.artifacts.vectors.target import ARCHITECTURES, is_same_architecture
from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.import_command import run_import

SAME_IN_THEIR_OWN_CODE = {
    "arctic",
    "baichuan",
    "chatglm",
    "codeshell",
    "cogvlm",
    "deepseek",
    "dream",
    "exaone",
    "grovemoe",
    "hunyuan-moe",
    "internlm2",
    "jais",
    "llada",
    "llada-moe",
    "maincoder",
    "minicpm",
    "neo-bert",
    "openelm",
    "orion",
    "pangu-embedded",
    "plamo",
    "plamo2",
    "plamo3",
    "plm",
    "qwen",
    "rnd1",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "smallthinker",
    "xverse",
}
"""Models that transformers does not have; the code beside their weights has the same name."""
NO_LANGUAGE_MODEL = {"clip", "wavtokenizer-dec"}


@pytest.mark.parametrize("architecture", sorted(MODEL_ARCH_NAMES.values()))
def test_every_architecture_of_llama_cpp_is_the_type_of_a_model(architecture: str) -> None:
    types = [*CONFIG_MAPPING.keys(), *(each for line in ARCHITECTURES.values() for each in line)]
    known = [each for each in types if is_same_architecture(architecture, each)]
    assert known or architecture in SAME_IN_THEIR_OWN_CODE | NO_LANGUAGE_MODEL


def test_the_table_has_llama_cpps_own_names() -> None:
    assert ARCHITECTURES.keys() <= set(MODEL_ARCH_NAMES.values())


@pytest.mark.parametrize(
    ("hint", "model_type"),
    [
        ("command-r", "cohere"),
        ("gptneox", "gpt_neox"),
        ("llama", "mistral"),
        ("phi2", "phi"),
        ("starcoder", "gpt_bigcode"),
        ("gpt-oss", "gpt_oss"),
        ("qwen35", "qwen3_5"),
        ("deepseek2", "deepseek_v3"),
        ("chatglm", "glm"),
        ("olmo2", "olmo3"),
        ("qwen2", "qwen2"),
        ("granitehybrid", "granitemoehybrid"),
        ("cohere", "cohere"),
        ("gpt_neox", "gpt_neox"),
    ],
)
def test_a_hint_in_either_naming_imports(tmp_path: Path, hint: str, model_type: str) -> None:
    done = hinted(tmp_path, hint, {"model_type": model_type})
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("hint", "model_type"),
    [
        ("command-r", "cohere2"),
        ("gptneox", "gptj"),
        ("llama", "qwen2"),
        ("mistral", "llama"),
        ("qwen2", "qwen3"),
        ("gemma2", "gemma3"),
        ("cohere", "command-r7b"),
        ("phi3", "phi"),
        ("", "llama_"),
        ("deepseek2", "deepseek"),
        ("qwen3", "qwen3_moe"),
    ],
)
def test_a_real_mismatch_stays_refused(tmp_path: Path, hint: str, model_type: str) -> None:
    if not hint:
        assert not is_same_architecture(hint, model_type)
        return
    done = hinted(tmp_path, hint, {"model_type": model_type})
    assert (done.exit_code, "model type: got" in done.output) == (1, True), done.output


def test_the_type_of_the_language_model_inside_counts(tmp_path: Path) -> None:
    inner = {"model_type": "gemma3_text", "hidden_size": writers.D, "num_hidden_layers": 6}
    config = {"model_type": "gemma3", "text_config": inner}
    for hint in ("gemma3", "gemma3_text"):
        assert hinted(tmp_path / hint, hint, config).exit_code == 0
    done = hinted(tmp_path / "other", "llama", config)
    assert "want 'gemma3' or 'gemma3_text'" in done.output


def hinted(folder: Path, hint: str, config: dict[str, object]):  # type: ignore[no-untyped-def]
    folder.mkdir(exist_ok=True)
    writers.write_gguf(folder / "v.gguf", hint=hint)
    sizes = {"hidden_size": writers.D, "num_hidden_layers": 6}
    (folder / "config.json").write_text(json.dumps(sizes | config))
    words = ("--norms", "4,5", "--model-config", str(folder / "config.json"))
    return run_import(folder / "v.gguf", "gguf", *words)
