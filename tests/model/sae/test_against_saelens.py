"""Every architecture that SAELens writes: its objects, saved, loaded by both, agree to 1e-5."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pilothouse.edit.sae import FeatureEdit, feature_rows
from pilothouse.edit.sae_codes import decode, encode
from pilothouse.errors import ArtefactError
from pilothouse.model.sae.autoencoder import Sae
from pilothouse.model.sae.formats import load_sae
from pilothouse.model.sae.told import Told
from tests.edit.test_sae import layer_edit

pytestmark = pytest.mark.full

WIDTH, FEATURES, TOKENS = 24, 96, 48
MODULES = {
    "StandardSAE": "standard_sae", "GatedSAE": "gated_sae", "JumpReLUSAE": "jumprelu_sae",
    "TopKSAE": "topk_sae", "AbsTopKSAE": "abstopk_sae",
    "MatchingPursuitSAE": "matching_pursuit_sae",
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("StandardSAE", {}),
    "standard, b_dec not on the input": ("StandardSAE", {"apply_b_dec_to_input": False}),
    "standard, layer norm": ("StandardSAE", {"normalize_activations": "layer_norm"}),
    "standard, constant norm": ("StandardSAE", {"normalize_activations": "constant_norm_rescale"}),
    "gated": ("GatedSAE", {}),
    "gated, constant norm": ("GatedSAE", {"normalize_activations": "constant_norm_rescale"}),
    "jumprelu": ("JumpReLUSAE", {}),
    "jumprelu, b_dec not on the input": ("JumpReLUSAE", {"apply_b_dec_to_input": False}),
    "jumprelu, layer norm": ("JumpReLUSAE", {"normalize_activations": "layer_norm"}),
    "topk": ("TopKSAE", {"k": 9}),
    "topk by decoder norms": ("TopKSAE", {"k": 9, "rescale_acts_by_decoder_norm": True}),
    "topk, layer norm": ("TopKSAE", {"k": 9, "normalize_activations": "layer_norm"}),
    "abstopk": ("AbsTopKSAE", {"k": 9}),
    "abstopk by decoder norms": ("AbsTopKSAE", {"k": 9, "rescale_acts_by_decoder_norm": True}),
}


@pytest.fixture(scope="module", autouse=True)
def library() -> Any:
    """Imported late: it takes its time, and other tests need not wait for it."""
    return pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra `train`)")


def from_disk(folder: Path) -> Any:
    """As their library loads it."""
    return importlib.import_module("sae_lens").SAE.load_from_disk(folder)


def theirs(class_name: str, **changes: Any) -> Any:
    """An SAE of theirs with random numbers everywhere."""
    module = importlib.import_module(f"sae_lens.saes.{MODULES[class_name]}")
    base = importlib.import_module("sae_lens.saes.sae")
    about = base.SAEMetadata(model_name="demo", hook_name="blocks.4.hook_resid_post")
    config = getattr(module, f"{class_name}Config")
    made = getattr(module, class_name)(
        config(d_in=WIDTH, d_sae=FEATURES, metadata=about, **changes)
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, each in made.named_parameters():
            each.copy_(torch.randn_like(each) * (0.3 if name == "r_mag" else 1.0))
            if name == "threshold":
                each.copy_(each.abs())
    return made


def stream() -> Any:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(7)) * 2.0


def agree(ours: Sae, loaded: Any) -> None:
    """Codes and reconstructions of the same stream, to 1e-5 of the largest."""
    h_TD = stream()
    with torch.no_grad():
        codes_TM = loaded.encode(h_TD)
        back_TD = loaded.decode(codes_TM)
    assert 0.02 < (codes_TM != 0).float().mean() < 0.95
    got_TM = encode(ours, h_TD.double().numpy())
    largest = float(codes_TM.abs().max())
    assert np.abs(got_TM - codes_TM.double().numpy()).max() < 1e-5 * max(1.0, largest)
    got_TD = decode(ours, codes_TM.double().numpy(), h_TD.double().numpy())
    largest = float(back_TD.abs().max())
    assert np.abs(got_TD - back_TD.double().numpy()).max() < 1e-5 * max(1.0, largest)


@pytest.mark.parametrize("case", CASES)
def test_codes_and_reconstructions_agree(tmp_path: Path, case: str) -> None:
    class_name, changes = CASES[case]
    theirs(class_name, **changes).save_model(tmp_path)
    agree(load_sae("s", tmp_path, "saelens"), from_disk(tmp_path))


@pytest.mark.parametrize("class_name", ["StandardSAE", "JumpReLUSAE", "GatedSAE"])
def test_the_average_norm_is_folded_as_theirs_is(tmp_path: Path, class_name: str) -> None:
    made = theirs(class_name, normalize_activations="expected_average_only_in")
    made.save_model(tmp_path)
    norm = 7.5
    loaded = from_disk(tmp_path)
    loaded.fold_activation_norm_scaling_factor(WIDTH**0.5 / norm)
    agree(load_sae("s", tmp_path, "saelens", Told(average_norm=norm)), loaded)


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
def test_what_is_trained_by_batch_is_served_by_its_threshold(tmp_path: Path, name: str) -> None:
    prefix = {"batchtopk": "BatchTopK", "matryoshka_batchtopk": "MatryoshkaBatchTopK"}[name]
    module = importlib.import_module(f"sae_lens.saes.{name}_sae")
    config: dict[str, Any] = {"d_in": WIDTH, "d_sae": FEATURES, "k": 9}
    config |= {"matryoshka_widths": [32, FEATURES]} if name != "batchtopk" else {}
    made = getattr(module, f"{prefix}TrainingSAE")(
        getattr(module, f"{prefix}TrainingSAEConfig")(**config)
    )
    made.cfg.metadata.model_name = "demo"
    made.cfg.metadata.hook_name = "blocks.4.hook_resid_post"
    with torch.no_grad():
        for each in made.parameters():
            each.normal_(generator=torch.Generator().manual_seed(each.numel()))
        made.topk_threshold.fill_(25.0)
    made.save_inference_model(tmp_path)
    ours = load_sae("s", tmp_path, "saelens")
    assert ours.form == "jumprelu"
    agree(ours, from_disk(tmp_path))


@pytest.mark.parametrize(
    "case", [each for each in CASES if "norm" not in each and "topk" not in each]
)
def test_an_edit_with_their_error_term_is_ours(tmp_path: Path, case: str) -> None:
    class_name, changes = CASES[case]
    theirs(class_name, **changes).save_model(tmp_path)
    ours, loaded = load_sae("s", tmp_path, "saelens"), from_disk(tmp_path)
    h_TD = stream()
    edits = (FeatureEdit(11, "set", 6.0), FeatureEdit(30, "scale", 0.5), FeatureEdit(52, "ablate"))
    with torch.no_grad():
        codes_TM = loaded.encode(h_TD)
        new_TM = codes_TM.clone()
        new_TM[:, 11], new_TM[:, 52] = 6.0, 0.0
        new_TM[:, 30] *= 0.5
        error_TD = h_TD - loaded.decode(codes_TM.clone())
        want_TD = loaded.decode(new_TM) + error_TD
    assert len(feature_rows(ours, edits)) == 3
    got_TD = layer_edit(ours, *edits).apply(h_TD.numpy(), 1.0)
    largest = float(want_TD.abs().max())
    assert np.abs(got_TD - want_TD.double().numpy()).max() < 1e-5 * max(1.0, largest)


def test_matching_pursuit_is_refused(tmp_path: Path) -> None:
    theirs("MatchingPursuitSAE").save_model(tmp_path)
    with pytest.raises(ArtefactError, match=r"architecture: .*greedy"):
        load_sae("s", tmp_path, "saelens")
