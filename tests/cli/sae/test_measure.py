"""`sae import --measure`: numbers of the served model are those that transformers computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.cli.sae import app
from pilothouse.cli.sae.measure import read_prompts
from pilothouse.edits.sae_codes import encode
from pilothouse.errors import ConfigError
from tests.support.artifacts.sae_files import save, write_json
from tests.support.models.tiny_model import D_MODEL, make_tiny_model

LAYER, FEATURES = 2, 48
PROMPTS = ("the harbour opens at dawn", "the keeper of the light writes", "boats leave")


def scaled_sae(folder: Path) -> Path:
    """An SAE that needs to know how long its inputs were."""
    draw = np.random.default_rng(4)
    config = {
        "architecture": "jumprelu",
        "d_in": D_MODEL,
        "d_sae": FEATURES,
        "dtype": "float32",
        "normalize_activations": "expected_average_only_in",
        "apply_b_dec_to_input": False,
        "metadata": {"model_name": "tiny", "hook_name": f"blocks.{LAYER}.hook_resid_post"},
    }
    write_json(folder / "cfg.json", config)
    tensors = {
        "W_enc": draw.normal(size=(D_MODEL, FEATURES)) / D_MODEL**0.5,
        "b_enc": np.zeros(FEATURES),
        "W_dec": draw.normal(size=(FEATURES, D_MODEL)),
        "b_dec": np.zeros(D_MODEL),
        "threshold": np.full(FEATURES, 0.5),
    }
    save(folder / "sae_weights.safetensors", tensors)
    return folder


@pytest.mark.engine
def test_norm_and_maxima_are_those_of_transformers(tmp_path: Path) -> None:
    model_folder = make_tiny_model(tmp_path / "model")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n\n".join(PROMPTS))
    folder = scaled_sae(tmp_path / "theirs")
    result = CliRunner().invoke(
        app,
        [
            "import",
            str(folder),
            "--out",
            str(tmp_path / "ours"),
            "--measure",
            str(prompts),
            "--model",
            str(model_folder),
            "--dtype",
            "float32",
        ],
    )
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    with torch.no_grad():
        streams = [
            model(**tokenizer(each, return_tensors="pt"), output_hidden_states=True)
            .hidden_states[LAYER + 1][0, 1:]
            .double()
            .numpy()
            for each in PROMPTS
        ]
    stream_TD = np.concatenate(streams)
    norm = np.linalg.norm(stream_TD, axis=1).mean()
    ours = load_sae("ours", tmp_path / "ours", "pilothouse")
    assert ours.input_scale == pytest.approx(D_MODEL**0.5 / norm, rel=1e-4)
    assert ours.average_norm == pytest.approx(norm, rel=1e-4)
    want_M = encode(ours, stream_TD).max(axis=0)
    assert (want_M > 0).sum() > 5
    assert ours.max_act_M == pytest.approx(want_M, rel=1e-3, abs=1e-4)
    assert f"measured  {len(stream_TD)} tokens, average norm" in result.output
    about = json.loads(CliRunner().invoke(app, ["show", str(tmp_path / "ours"), "--json"]).output)
    assert about["max_act"]["features_ever_on"] == (want_M > 0).sum()


def test_a_model_of_another_width_is_refused_before_it_runs(tmp_path: Path) -> None:
    write_json(
        tmp_path / "model" / "config.json",
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "vocab_size": 32,
        },
    )
    (tmp_path / "prompts.txt").write_text("hello there")
    result = CliRunner().invoke(
        app,
        [
            "import",
            str(scaled_sae(tmp_path / "theirs")),
            "--out",
            str(tmp_path / "ours"),
            "--measure",
            str(tmp_path / "prompts.txt"),
            "--model",
            str(tmp_path / "model"),
        ],
    )
    assert result.exit_code == 1, result.output
    assert "width 64 at resid_post, 4 layers, want width 128" in result.output
    assert not (tmp_path / "ours").exists()


def test_a_file_without_prompts_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(" \n\n")
    with pytest.raises(ConfigError, match="has no prompts"):
        read_prompts(tmp_path / "prompts.txt")
