"""`pilothouse sae features`: the served model's activations, through an SAE, as features."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from pilothouse.cli import sae as sae_verb
from pilothouse.library import library_path
from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files

RUN = CliRunner()
MODEL = library_path("examples/demo") / "model"
PROMPT = "what is the home of bani loto?"
LAYER, WIDTH, FEATURES = 3, 192, 48


@pytest.fixture(scope="module")
def made() -> Book:
    """A JumpReLU SAE of the demo model's width, of random directions."""
    draw = np.random.default_rng(5)

    def normal(*shape: int) -> Any:
        return draw.normal(size=shape).astype(np.float32).astype(np.float64)

    return Book(
        W_enc=normal(WIDTH, FEATURES) / 10,
        W_dec=normal(FEATURES, WIDTH),
        b_dec=normal(WIDTH),
        b_enc=normal(FEATURES),
        form="jumprelu",
        threshold=np.abs(normal(FEATURES)) * 5,
    )


@pytest.fixture(scope="module")
def folder(made: Book, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, as SAELens writes it, with two labels and each feature's largest code."""
    place = tmp_path_factory.mktemp("saes") / "world"
    place.mkdir()
    config = {
        "architecture": "jumprelu",
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {
            "model_name": "pilothouse-demo",
            "hook_name": f"blocks.{LAYER}.hook_resid_post",
        },
    }
    files.write_json(place / "cfg.json", config)
    files.save(place / "sae_weights.safetensors", files.lens_tensors(made))
    files.save(place / "features.safetensors", {"max_act": np.full(FEATURES, 50.0)})
    files.write_json(place / "labels.json", {str(each): f"name {each}" for each in range(40)})
    return place


def ask(*words: str) -> Any:
    return RUN.invoke(sae_verb.app, ["features", *words])


def place(folder: Path, *words: str) -> tuple[str, ...]:
    known = ("--model", str(MODEL), "--model-id", "pilothouse-demo", "--sae", str(folder))
    return (PROMPT, *known, *words)


@pytest.mark.engine
def test_features_are_those_of_the_served_activations(folder: Path, made: Book) -> None:
    asked = place(folder, "--json", "--top", "6", "--answer-tokens", "4", "--dtype", "float32")
    verb = "from pilothouse.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", verb, "sae", "features", *asked],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    ids = [each["token_id"] for each in found["tokens"]]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=False
    )
    assert ids[: len(chat)] == chat
    assert [each["is_output"] for each in found["tokens"]] == [False] * len(chat) + [True] * 3
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    hidden_TD = states[LAYER + 1][0].double().numpy()
    codes_TM = np.array([made.codes(h) for h in hidden_TD])
    # The first token is told of and not ranked.
    want = np.sort(codes_TM[1:].max(axis=0))[::-1][:6]
    assert want[5] > 1.0
    for each, code in zip(found["top"], want, strict=True):
        assert each["code"] == pytest.approx(code, rel=1e-4)
        assert each["share"] == pytest.approx(code / 50.0, rel=1e-4)
        assert codes_TM[each["position"], each["feature"]] == pytest.approx(code, rel=1e-4)
        assert each["num_tokens"] == np.count_nonzero(codes_TM[1:, each["feature"]])
        assert each["label"] == (f"name {each['feature']}" if each["feature"] < 40 else None)
    for row, token in enumerate(found["tokens"]):
        got = [each["code"] for each in token["features"]]
        assert got == pytest.approx(list(np.sort(codes_TM[row])[::-1][: len(got)]), rel=1e-4)


def test_an_sae_of_another_model_is_refused(folder: Path) -> None:
    result = ask(PROMPT, "--model", str(MODEL), "--sae", str(folder))
    assert result.exit_code == 2
    assert "made for pilothouse-demo" in result.output
    assert "--model-id pilothouse-demo" in result.output


def test_an_sae_of_another_width_is_refused(tmp_path: Path) -> None:
    narrow = files.saelens(tmp_path / "narrow", files.book("jumprelu"))
    result = ask(*place(narrow))
    assert result.exit_code == 2
    assert f"got width {files.WIDTH}, want the {WIDTH}" in result.output


def test_an_sae_of_a_layer_that_the_model_lacks_is_refused(folder: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    for each in folder.iterdir():
        (deep / each.name).write_bytes(each.read_bytes())
    text = (deep / "cfg.json").read_text()
    (deep / "cfg.json").write_text(text.replace("blocks.3", "blocks.6"))
    result = ask(*place(deep))
    assert result.exit_code == 2
    assert "got layer 6, want 0 to 5" in result.output


def test_a_folder_without_an_sae_is_a_finding(tmp_path: Path) -> None:
    result = ask(*place(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "folder: got nothing" in result.output


def test_an_sae_can_be_named_by_a_configuration(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "pilothouse.yaml"
    file.write_text(f"version: 1\nmodel_id: another\nsaes: {{world: {{path: {folder}}}}}\n")
    known = ("--model", str(MODEL), "--pilothouse-config", str(file))
    result = ask(PROMPT, *known, "--sae", "world")
    assert result.exit_code == 2
    assert "world: made for pilothouse-demo" in result.output
    result = ask(PROMPT, *known, "--sae", "other")
    assert result.exit_code == 2
    assert "got 'other', want one under `saes`" in result.output
    result = ask(PROMPT, *known, "--sae", "world", "--layer", "4")
    assert result.exit_code == 2
    assert "got ['layer'] beside it" in result.output


def test_a_site_that_does_not_exist_is_wrong_use(folder: Path) -> None:
    result = ask(*place(folder, "--site", "attic"))
    assert result.exit_code == 2
    assert "--site: got 'attic'" in result.output
