"""Fields that SAELens moved between versions are read where each version had them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.edits.sae_codes import decode, encode
from pilothouse.errors import ArtefactError
from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import FEATURES, WIDTH, book, hidden


def check(sae: Sae, made: Book) -> None:
    """Codes and reconstruction as the textbook says."""
    assert (sae.model_id, sae.tap) == ("demo", (4, "resid_post"))
    h_TD = hidden()
    codes_TM = np.stack([made.codes(h) for h in h_TD])
    assert encode(sae, h_TD) == pytest.approx(codes_TM, abs=1e-5)
    again_TD = np.stack([made.reconstruction(h, c) for h, c in zip(h_TD, codes_TM, strict=True)])
    assert decode(sae, codes_TM, h_TD) == pytest.approx(again_TD, abs=1e-4)


def change(folder: Path, **changes: Any) -> Path:
    """Fields set, or taken out where None."""
    place = folder / "cfg.json"
    config = json.loads(place.read_text()) | changes
    files.write_json(place, {key: each for key, each in config.items() if each is not None})
    return folder


@pytest.mark.parametrize(
    "architecture", ["topk", "standard", "matryoshka", "matryoshka_batchtopk", "batchtopk", None]
)
def test_k_stood_among_the_arguments_of_the_activation(
    tmp_path: Path, architecture: str | None
) -> None:
    made = book("topk", k=4, subtracts_b_dec=True)
    folder = change(files.saelens_3(tmp_path, made), architecture=architecture)
    sae = load_sae("s", folder, "saelens")
    assert (sae.form, sae.k) == ("topk", 4)
    check(sae, made)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"k": 7}, "{'k': 7, 'activation_fn_kwargs.k': 4}"),
        ({"activation_fn_kwargs": {}}, "nothing, nor `activation_fn_kwargs.k`"),
        ({"activation_fn_kwargs": {"k": 4.5}}, "got 4.5, want a whole number"),
        ({"activation_fn_kwargs": {"k": True}}, "got True, want a whole number"),
    ],
)
def test_a_k_that_is_said_twice_or_not_at_all_is_refused(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    folder = change(files.saelens_3(tmp_path, book("topk", k=4)), **fields)
    with pytest.raises(ArtefactError) as caught:
        load_sae("s", folder, "saelens")
    assert said in str(caught.value)


def test_a_refused_activation_is_not_asked_for_in_the_same_breath(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path, book("gated"), activation_fn_str="topk")
    with pytest.raises(ArtefactError, match="got 'topk' in 'gated', want 'relu' there"):
        load_sae("s", folder, "saelens")


def checkpoint(folder: Path, made: Book, **changes: Any) -> Path:
    """A checkpoint of BatchTopK training: one threshold for all features."""
    assert made.threshold is not None
    files.saelens(folder, made, **({"architecture": "batchtopk", "k": 20.0} | changes))
    tensors = files.lens_tensors(made)
    tensors["topk_threshold"] = tensors.pop("threshold")[0]
    files.save(folder / "sae_weights.safetensors", tensors)
    return folder


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_a_checkpoint_of_batch_topk_is_served_by_its_threshold(
    tmp_path: Path, architecture: str
) -> None:
    made = book("jumprelu", threshold=np.full(FEATURES, 0.5), subtracts_b_dec=True)
    sae = load_sae("s", checkpoint(tmp_path, made, architecture=architecture), "saelens")
    assert (sae.form, sae.k) == ("jumprelu", None)
    check(sae, made)


def test_a_checkpoint_that_chose_by_norms_is_folded_as_the_library_does(tmp_path: Path) -> None:
    made = book("jumprelu", threshold=np.full(FEATURES, 0.5), subtracts_b_dec=True)
    folder = checkpoint(tmp_path, made, rescale_acts_by_decoder_norm=True)
    sae = load_sae("s", folder, "saelens")
    norms = np.linalg.norm(made.W_dec, axis=1)
    assert norms.std() > 0.2
    made.W_enc, made.b_enc = made.W_enc * norms, made.b_enc * norms
    made.W_dec = made.W_dec / norms[:, None]
    check(sae, made)
    assert (
        sae.digest
        != load_sae("s", change(folder, rescale_acts_by_decoder_norm=False), "saelens").digest
    )


def test_a_batch_topk_without_a_threshold_is_refused(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path, book("topk"), architecture="batchtopk", k=20.0)
    with pytest.raises(ArtefactError, match=r"without a threshold.*save it for inference"):
        load_sae("s", folder, "saelens")


def test_norms_that_are_not_folded_are_refused_where_thresholds_choose(tmp_path: Path) -> None:
    folder = files.saelens(
        tmp_path, book("jumprelu"), architecture="matryoshka", rescale_acts_by_decoder_norm=True
    )
    with pytest.raises(ArtefactError, match="rescale_acts_by_decoder_norm: got True"):
        load_sae("s", folder, "saelens")


def test_a_threshold_by_its_logarithm_is_read(tmp_path: Path) -> None:
    made = book("jumprelu", subtracts_b_dec=True)
    folder = files.saelens(tmp_path, made)
    tensors = files.lens_tensors(made)
    tensors["log_threshold"] = np.log(tensors.pop("threshold"))
    files.save(folder / "sae_weights.safetensors", tensors)
    check(load_sae("s", folder, "saelens"), made)


def test_a_runners_file_has_the_saes_fields_inside(tmp_path: Path) -> None:
    made = book("topk", k=5, subtracts_b_dec=True)
    folder = files.saelens(tmp_path, made)
    config = json.loads((folder / "cfg.json").read_text())
    trained_on = config.pop("metadata")
    files.write_json(
        folder / "cfg.json",
        {
            **trained_on,
            "training_tokens": 100,
            "normalize_activations": "layer_norm",
            "sae": config | {"metadata": {}},
        },
    )
    check(load_sae("s", folder, "saelens"), made)


@pytest.mark.parametrize("field", ["hook_head_index", "hook_point_head_index"])
def test_a_single_head_is_refused_by_either_name_of_its_field(tmp_path: Path, field: str) -> None:
    folder = files.saelens_3(tmp_path, book(), hook_point="blocks.4.attn.hook_z", **{field: 3})
    with pytest.raises(ArtefactError, match=f"{field}: got 3"):
        load_sae("s", folder, "saelens")


def test_a_layer_apart_from_its_hook_is_put_in(tmp_path: Path) -> None:
    made = book(subtracts_b_dec=True)
    folder = files.saelens_3(tmp_path, made, hook_point="blocks.{layer}.hook_resid_post")
    check(load_sae("s", folder, "saelens"), made)


def test_a_hook_by_the_name_of_a_module_is_read(tmp_path: Path) -> None:
    made = book(subtracts_b_dec=True)
    folder = files.saelens_3(tmp_path, made, hook_point=None, hf_hook_name="model.layers.4")
    check(load_sae("s", folder, "saelens"), made)
    assert load_sae("s", folder, "saelens").width == WIDTH
