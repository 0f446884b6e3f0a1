"""Paths of modules, as models of each family have them, become taps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pilothouse.artifacts.module_path import module_tap
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.errors import ArtefactError
from pilothouse.types import Tap
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import book
from tests.support.models.plain_transformers import causal_class
from tests.support.models.tiny_architectures import NUM_LAYERS, architectures

BLOCKS = [
    "layers.3",
    "h.3",
    "blocks.3",
    "model.layers.3",
    "transformer.h.3",
    "gpt_neox.layers.3",
    "model.decoder.layers.3",
    "decoder.layers.3",
    "backbone.layers.3",
    "transformer.blocks.3",
    "model.language_model.layers.3",
    "language_model.model.layers.3",
    "transformer.encoder.layers.3",
    "base_model.model.model.layers.3",
    "model.layers[3]",
    "model_layers[3]",
    "layers_3",
    "gpt_neox_layers_3",
    "model.layers.3.output",
]


@pytest.mark.parametrize("path", BLOCKS)
def test_a_block_of_any_family_is_the_stream_behind_it(path: str) -> None:
    assert module_tap(path) == Tap(3, "resid_post")


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("layers.3.input", "resid_pre"),
        ("h.3.mlp", "mlp_out"),
        ("h.3.attn", "attn_out"),
        ("gpt_neox.layers.3.attention", "attn_out"),
        ("gpt_neox.layers.3.mlp", "mlp_out"),
        ("transformer.h.3.self_attention", "attn_out"),
        ("transformer.blocks.3.ffn", "mlp_out"),
        ("model.layers.3.self_attn.o_proj.input", "attn_heads"),
        ("h.3.attn.c_proj.input", "attn_heads"),
        ("h.3.mlp.c_proj.input", "mlp_neurons"),
        ("model.layers.3.mlp.down_proj.input", "mlp_neurons"),
        ("gpt_neox.layers.3.mlp.dense_4h_to_h.input", "mlp_neurons"),
        ("model.decoder.layers.3.fc2", "mlp_out"),
        ("layers[3].feed_forward.w2", "mlp_out"),
    ],
)
def test_a_module_in_a_block_is_the_site_it_writes_or_reads(path: str, site: str) -> None:
    assert module_tap(path) == (3, site)


@pytest.mark.parametrize(
    "path",
    [
        "vision_model.encoder.layers.3",
        "visual.blocks.3",
        "audio_tower.layers.3",
        "layers.3.mlp.gate",
        "layers",
        "layers.x",
        "layers.12345",
        "mylayers.3",
        "h.3.4",
        "layers.3.mlp.act_fn",
        "",
    ],
)
def test_other_modules_are_no_taps(path: str) -> None:
    assert module_tap(path) is None


@pytest.mark.parametrize("name", sorted(architectures()))
def test_the_blocks_of_transformers_own_models_are_found(name: str) -> None:
    config = architectures()[name]
    with torch.device("meta"):
        model = causal_class(config)._from_config(config)
    for root in (model, model.base_model):
        [path] = [
            path
            for path, module in root.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == NUM_LAYERS
        ]
        assert module_tap(f"{path}.2") == Tap(2, "resid_post")
        inside = {path for path, _ in root.named_modules()}
        sites = {each.site for each in map(module_tap, inside) if each is not None}
        assert {"attn_out", "resid_post"} <= sites


@pytest.mark.parametrize("folder", ["h.3", "gpt_neox.layers.3", "model.decoder.layers.3"])
def test_a_folder_of_another_family_says_the_layer(tmp_path: Path, folder: str) -> None:
    place = files.sparsify(tmp_path, book("topk")).rename(tmp_path / folder)
    sae = load_sae("s", place, None, SaeHints(model_id="demo"))
    assert sae.tap == Tap(3, "resid_post")


def test_a_folder_of_an_unknown_family_is_refused_with_the_options_that_help(
    tmp_path: Path,
) -> None:
    place = files.sparsify(tmp_path, book("topk")).rename(tmp_path / "trunk.stage.3")
    with pytest.raises(ArtefactError, match="say layer=N and site='SITE'"):
        load_sae("s", place, None, SaeHints(model_id="demo"))
    sae = load_sae("s", place, None, SaeHints(model_id="demo", layer=3, site="resid_post"))
    assert sae.tap == Tap(3, "resid_post")


def test_a_folder_and_the_operator_agree(tmp_path: Path) -> None:
    place = files.sparsify(tmp_path, book("topk"))
    with pytest.raises(ArtefactError, match="layer: got 4, want 5"):
        load_sae("s", place, None, SaeHints(model_id="demo", layer=5, site="resid_post"))


def test_a_folder_is_named_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.sparsify(tmp_path, book("topk")))
    assert load_sae("s", Path(), None, SaeHints(model_id="demo")).tap.layer == 4


def test_show_needs_no_model(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pilothouse.cli.sae import app

    place = files.sparsify(tmp_path, book("topk")).rename(tmp_path / "h.3")
    done = CliRunner().invoke(app, ["show", str(place)])
    assert done.exit_code == 0, done.output
    assert "not in the files: say --model-id, resid_post of layer 3" in done.output
    named = CliRunner().invoke(app, ["show", str(place), "--model-id", "demo"])
    assert "demo, resid_post of layer 3" in named.output
