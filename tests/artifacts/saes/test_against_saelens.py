"""Every architecture that SAELens writes: its objects, saved, loaded by both, agree to 1e-5."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.edits.layer import LayerEdit
from pilothouse.edits.sae import FeatureEdit
from pilothouse.edits.sae_codes import decode, encode
from pilothouse.engine.worker.kernel import edit_delta
from tests.edits.test_sae import layer_edit
from tests.engine.test_features import tables_of

pytestmark = pytest.mark.full

WIDTH, FEATURES, TOKENS = 24, 96, 48
MODULES = {
    "StandardSAE": "standard_sae",
    "GatedSAE": "gated_sae",
    "JumpReLUSAE": "jumprelu_sae",
    "TopKSAE": "topk_sae",
    "AbsTopKSAE": "abstopk_sae",
    "MatchingPursuitSAE": "matching_pursuit_sae",
}
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
    "abstopk, constant norm": (
        "AbsTopKSAE",
        {"k": 9, "normalize_activations": "constant_norm_rescale"},
    ),
    "matching pursuit": ("MatchingPursuitSAE", {"residual_threshold": 2.0}),
    "matching pursuit of 7 steps": (
        "MatchingPursuitSAE",
        {"residual_threshold": 0.0, "max_iterations": 7, "stop_on_duplicate_support": False},
    ),
    "matching pursuit, layer norm": (
        "MatchingPursuitSAE",
        {"residual_threshold": 1.0, "normalize_activations": "layer_norm"},
    ),
    "matching pursuit, b_dec not on the input": (
        "MatchingPursuitSAE",
        {"residual_threshold": 2.0, "apply_b_dec_to_input": False},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def library() -> Any:
    """Imported late: it takes its time, and other tests need not wait for it."""
    return pytest.importorskip("sae_lens", reason="sae-lens is not installed: make install-sae")


def from_disk(folder: Path) -> Any:
    """As their library loads it."""
    return importlib.import_module("sae_lens").SAE.load_from_disk(folder)


def theirs(
    class_name: str, *, width: int = WIDTH, hook: str = "blocks.4.hook_resid_post", **changes: Any
) -> Any:
    """An SAE of theirs with random numbers everywhere."""
    module = importlib.import_module(f"sae_lens.saes.{MODULES[class_name]}")
    base = importlib.import_module("sae_lens.saes.sae")
    about = base.SAEMetadata(model_name="demo", hook_name=hook)
    config = getattr(module, f"{class_name}Config")
    made = getattr(module, class_name)(
        config(d_in=width, d_sae=FEATURES, metadata=about, **changes)
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, each in made.named_parameters():
            each.copy_(torch.randn_like(each) * (0.3 if name == "r_mag" else 1.0))
            if name == "threshold":
                each.copy_(each.abs())
            if class_name == "MatchingPursuitSAE" and name == "W_dec":
                each.copy_(each / each.norm(dim=-1, keepdim=True))
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
    agree(load_sae("s", tmp_path, "saelens", SaeHints(average_norm=norm)), loaded)


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


@pytest.mark.parametrize("case", CASES)
def test_an_edit_with_their_error_term_is_ours(tmp_path: Path, case: str) -> None:
    class_name, changes = CASES[case]
    theirs(class_name, **changes).save_model(tmp_path)
    ours, loaded = load_sae("s", tmp_path, "saelens"), from_disk(tmp_path)
    h_TD = stream()
    with torch.no_grad():
        codes_TM = loaded.encode(h_TD)
        one, two, three = (codes_TM != 0).sum(dim=0).topk(3).indices.tolist()
        new_TM = codes_TM.clone()
        new_TM[:, one], new_TM[:, two] = 6.0, 0.0
        new_TM[:, three] *= 0.5
        # A stream is encoded before it is decoded: they keep its norm in between.
        changed_TD = loaded.decode(new_TM)
        loaded.encode(h_TD)
        want_TD = h_TD - loaded.decode(codes_TM.clone()) + changed_TD
    edits = (
        FeatureEdit(one, "set", 6.0),
        FeatureEdit(two, "ablate"),
        FeatureEdit(three, "scale", 0.5),
    )
    edit = layer_edit(ours, *edits)
    assert edit.rank == 3
    largest = float(want_TD.abs().max())
    assert float((want_TD - h_TD).abs().max()) > 0.05
    for got_TD in (edit.apply(h_TD.numpy(), 1.0, {ours.digest: ours}), in_the_kernel(ours, edit)):
        assert np.abs(got_TD - want_TD.double().numpy()).max() < 1e-5 * max(1.0, largest)


def in_the_kernel(sae: Sae, edit: LayerEdit) -> Any:
    """The stream after the engine's kernel, with the SAE resident at the tap."""
    h_TD, everywhere_T = stream(), torch.ones(TOKENS)
    tables = tables_of([sae], [edit], slice(0, WIDTH))
    return (h_TD + edit_delta(h_TD, everywhere_T.long(), everywhere_T, tables)).numpy()
