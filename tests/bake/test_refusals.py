"""What weights cannot do, and models that are not what they say: an error, and nothing written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pilothouse.artifacts.vector import build_vector, save_vector
from pilothouse.cli.vector import app
from pilothouse.types import Site
from tests.support.models.tiny_architectures import D_MODEL, make_architecture


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_architecture(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """Vectors by site, for a model named llama."""
    for site in ("resid_post", "mlp_out"):
        save(tmp_path / site, site)
    return tmp_path


def save(folder: Path, site: Site, width: int = D_MODEL, layers: tuple[int, ...] = (1,)) -> None:
    rows_LD = np.random.default_rng(1).normal(size=(len(layers), width)).astype(np.float32)
    made = build_vector(
        "it",
        model_id="llama",
        layers=layers,
        site=site,
        created_by="a test",
        directions_LD=rows_LD,
        residual_norms_L=np.ones(len(layers), np.float32),
    )
    save_vector(made, folder)


def run(model: Path, out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["bake", str(model), "--out", str(out), *words])


def refused(result: Result, out: Path, code: int, *said: str) -> None:
    assert result.exit_code == code, result.output
    for text in said:
        assert text in result.output
    assert not out.exists()
    assert [each.name for each in out.parent.iterdir() if each.name.startswith(".bake")] == []


def profile(folder: Path, **term: Any) -> tuple[str, ...]:
    """Words that bake a profile of one term with the vector at mlp_out."""
    steer = [{"vector": "it", "scale": 1.0, "on": "all"} | term]
    raw = {
        "version": 1,
        "model_id": "llama",
        "vectors": {"it": {"path": "mlp_out"}},
        "profiles": {"x:y": {"steer": steer}},
    }
    (folder / "pilothouse.yaml").write_text(json.dumps(raw))
    return "--config", str(folder / "pilothouse.yaml"), "--profile", "x:y"


TERMS: dict[str, tuple[dict[str, Any], str]] = {
    "output alone": ({"on": "output"}, "got on 'output', want `on: all`"),
    "the prompt alone": ({"on": "prompt"}, "weights act on every token"),
    "positions": ({"positions": {"first": 3}}, "got positions"),
    "a gate": ({"gate": {"probe": "p"}}, "gate: weights have no gate"),
    "a restored norm": ({"restore_norm": True}, "restore_norm: a norm is no linear map"),
    "a token's length": ({"unit": "token"}, "unit: what is added would hang on"),
    "a floor": ({"op": "floor", "value": 1.0, "scale": None}, "has a gate: how much is written"),
    "a cap": ({"op": "cap", "value": 1.0, "scale": None}, "has a gate: how much is written"),
    "a threshold": ({"op": "add_below", "value": 0.0}, "has a gate: how much is written"),
    "slerp": ({"op": "slerp", "scale": 0.5}, "has a turn towards a direction"),
    "replace": ({"op": "replace"}, "of full rank"),
    "nothing": ({"scale": 0.0}, "the terms write nothing"),
}


@pytest.mark.parametrize("case", TERMS)
def test_what_weights_cannot_do_is_told(llama: Path, vectors: Path, case: str) -> None:
    term, said = TERMS[case]
    result = run(llama, vectors / "out", *profile(vectors, **term))
    refused(result, vectors / "out", 2, "bake: ", said)


def test_a_clause_is_widened_only_where_that_is_said(llama: Path, vectors: Path) -> None:
    words = profile(vectors, on="output")
    assert run(llama, vectors / "out", *words, "--on-all").exit_code == 0
    assert (vectors / "out" / "model.safetensors").is_file()


def test_a_feature_of_an_sae_is_refused(llama: Path, vectors: Path) -> None:
    raw = {
        "version": 1,
        "saes": {"s": {"path": "nowhere"}},
        "profiles": {"x:y": {"steer": [{"sae": "s", "feature": 3, "value": 1.0, "on": "all"}]}},
    }
    (vectors / "p.yaml").write_text(json.dumps(raw))
    words = ("--config", str(vectors / "p.yaml"), "--profile", "x:y")
    refused(run(llama, vectors / "out", *words), vectors / "out", 2, "gated by its code")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--op", "ablate"), "resid_post of layer 1: projects the stream"),
        (("--scale", "1", "--as", "adapter"), "adds a constant, which an adapter"),
        (("--scale", "1", "--as", "wheel"), "--as: got 'wheel'"),
        (("--scale", "1", "--layer", "3"), "layers of 'it': got 3"),
        ((), "scale"),
        (("--scale", "1", "--profile", "a:b"), "want either --config FILE"),
    ],
)
def test_what_does_not_go_together_is_told(
    llama: Path, vectors: Path, words: tuple[str, ...], said: str
) -> None:
    result = run(llama, vectors / "out", "--vector", str(vectors / "resid_post"), *words)
    assert result.exit_code in (1, 2), result.output
    refused(result, vectors / "out", result.exit_code, said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3", "has none there"),
        ("phi3", "has none there"),
        ("gemma2", "model_type: got"),
        ("qwen3_moe", "model_type: got"),
        ("olmo2", "model_type: got"),
    ],
)
def test_a_constant_needs_an_architecture_with_room_for_it(
    tmp_path: Path, vectors: Path, name: str, said: str
) -> None:
    model = make_architecture(tmp_path / "models" / name, name)
    words = ("--vector", str(vectors / "mlp_out"), "--scale", "1", "--model-id", "llama")
    result = run(model, vectors / "out", *words)
    refused(result, vectors / "out", result.exit_code, said)


def test_a_folder_that_holds_something_is_not_written_to(llama: Path, vectors: Path) -> None:
    words = ("--vector", str(vectors / "mlp_out"), "--scale", "1")
    assert run(llama, vectors, *words).exit_code == 2


Spoil = Callable[[Path], None]
NAME = "model.layers.1.mlp.down_proj.weight"


def config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(raw))

    return spoil


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return spoil


def raw(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        place = folder / "model.safetensors"
        place.write_bytes(change(place.read_bytes()))

    return spoil


def index(weight_map: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        text = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)

    return spoil


MODELS: dict[str, tuple[Spoil, str]] = {
    "no config": (lambda at: (at / "config.json").unlink(), "config.json: got nothing"),
    "config no JSON": (lambda at: (at / "config.json").write_text("{"), "content: got JSONDecode"),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), "weights: got none in"),
    "quantised": (config(quantization_config={"bits": 4}), "quantization_config: got"),
    "weights cut": (raw(lambda old: old[:-9]), "data_offsets: got"),
    "weights a pickle": (raw(lambda _: pickle.dumps({"a": 1})), "got a pickle"),
    "weights empty": (raw(lambda _: b""), "file: got 0 bytes"),
    "header endless": (raw(lambda old: b"\xff" * 8 + old[8:]), "header: got"),
    "matrix missing": (tensors(lambda every: every.pop(NAME)), f"{NAME}: got no such tensor"),
    "another width": (
        tensors(lambda every: every.update({NAME: torch.ones(32, 128)})),
        "width at mlp_out of layer 1: got 32, want 64",
    ),
    "matrix flat": (
        tensors(lambda every: every.update({NAME: torch.ones(64 * 128)})),
        f"{NAME}: got shape",
    ),
    "matrix NaN": (
        tensors(lambda every: every[NAME].fill_(float("nan"))),
        f"{NAME}: got 8192 values",
    ),
    "matrix infinite": (
        tensors(lambda every: every[NAME][0].fill_(float("inf"))),
        f"{NAME}: got 128 values",
    ),
    "matrix of numbers of no float": (
        tensors(lambda every: every.update({NAME: torch.ones(64, 128, dtype=torch.int32)})),
        f"{NAME}: got dtype int32",
    ),
    "index leads elsewhere": (index({NAME: "../other/model.safetensors"}), "weight_map: got"),
    "index of pickles": (index({NAME: "pytorch_model.bin"}), "weight_map: got"),
    "index empty": (index({}), "weight_map: got dict"),
    "index of files that are not there": (index({NAME: "a.safetensors"}), "file: got No such"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_broken_model_is_named(llama: Path, vectors: Path, case: str) -> None:
    spoil, said = MODELS[case]
    model = vectors / "models" / "llama"
    shutil.copytree(llama, model)
    spoil(model)
    result = run(model, vectors / "out", "--vector", str(vectors / "mlp_out"), "--op", "ablate")
    refused(result, vectors / "out", 1, str(model), said)
    assert result.output.partition(", want ")[2].partition("; ")[2], "no remedy"


def test_a_vector_of_another_model_is_refused(llama: Path, vectors: Path) -> None:
    shutil.copytree(llama, vectors / "other")
    words = ("--vector", str(vectors / "mlp_out"), "--scale", "1")
    result = run(vectors / "other", vectors / "out", *words)
    refused(result, vectors / "out", 1, "model_id: got 'llama', want 'other'")
    save(vectors / "wide", "mlp_out", width=D_MODEL * 2)
    words = ("--vector", str(vectors / "wide"), "--scale", "1", "--model-id", "llama")
    result = run(llama, vectors / "out", *words)
    refused(result, vectors / "out", 1, "width at mlp_out of layer 1: got 64, want 128")
    save(vectors / "deep", "mlp_out", layers=(9,))
    words = ("--vector", str(vectors / "deep"), "--scale", "1", "--model-id", "llama")
    result = run(llama, vectors / "out", *words)
    refused(result, vectors / "out", 1, "model.layers.9.mlp.down_proj.weight: got no such tensor")


def test_a_scale_that_the_weights_cannot_hold_is_refused(vectors: Path, tmp_path: Path) -> None:
    model = make_architecture(tmp_path / "models" / "llama", "llama", dtype=torch.float16)
    words = ("--vector", str(vectors / "mlp_out"), "--scale", "1e6")
    result = run(model, vectors / "out", *words)
    refused(result, vectors / "out", 1, "what float16 can hold", "bake a smaller scale")
