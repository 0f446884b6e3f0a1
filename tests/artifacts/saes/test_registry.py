"""A file in each library's layout becomes the SAE that the textbook has, number for number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.mapped_file import map_safetensors
from pilothouse.artifacts.saes.registry import FORMATS, load_sae, register
from pilothouse.artifacts.saes.saelens import load_saelens
from pilothouse.edits.sae_codes import decode, encode
from pilothouse.errors import ArtefactError, ConfigError
from pilothouse.types import Tap
from tests.reference.sae import Book
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import FEATURES, WIDTH, book, hidden

HERE = SaeHints(model_id="demo", layer=4, site="resid_post")
THRESHOLD = np.full(FEATURES, 0.5, np.float64)


def check(sae: Sae, made: Book, tap: Tap = Tap(4, "resid_post")) -> None:  # noqa: B008
    """Codes and reconstruction as the book says, at the right place."""
    assert (sae.model_id, sae.tap) == ("demo", tap)
    assert (sae.width, sae.num_features) == (WIDTH, FEATURES)
    h_TD = hidden()
    codes_TM = np.stack([made.codes(h) for h in h_TD])
    assert 0.02 < (codes_TM != 0).mean() < 0.9
    assert encode(sae, h_TD) == pytest.approx(codes_TM, abs=1e-6)
    again_TD = np.stack([made.reconstruction(h, c) for h, c in zip(h_TD, codes_TM, strict=True)])
    assert decode(sae, codes_TM, h_TD) == pytest.approx(again_TD, abs=1e-5)


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("form", ["relu", "jumprelu", "gated", "topk", "abstopk"])
def test_saelens_6(tmp_path: Path, form: str, subtracts: bool) -> None:
    made = book(form, subtracts_b_dec=subtracts)
    check(load_sae("s", files.saelens(tmp_path, made), "saelens"), made)


@pytest.mark.parametrize("form", ["topk", "abstopk"])
def test_saelens_chooses_by_decoder_norms_where_it_says_so(tmp_path: Path, form: str) -> None:
    made = book(form, norms="scale")
    check(load_sae("s", files.saelens(tmp_path, made), "saelens"), made)


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm"])
def test_saelens_normalises_tokens(tmp_path: Path, norm: str) -> None:
    made = book("jumprelu", norm=norm, subtracts_b_dec=True)
    check(load_sae("s", files.saelens(tmp_path, made), "saelens"), made)


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("tolerance", [0.0, 1.5])
def test_saelens_matching_pursuit(tmp_path: Path, tolerance: float, repeat: bool) -> None:
    made = book("pursuit", tolerance=tolerance, ends_on_repeat=repeat, subtracts_b_dec=True)
    check(load_sae("s", files.saelens(tmp_path, made), "saelens"), made)


def test_saelens_leaves_a_pursuits_bias_out_where_it_is_not_taken_off(tmp_path: Path) -> None:
    made = book("pursuit", b_dec=np.zeros(WIDTH))
    folder = files.saelens(tmp_path, book("pursuit", b_dec=np.ones(WIDTH)))
    check(load_sae("s", folder, "saelens"), made)


def test_a_pursuit_without_a_bound_is_bounded_by_the_width(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path, book("pursuit"), max_iterations=None)
    assert load_sae("s", folder, "saelens").k == WIDTH
    files.saelens(tmp_path, book("pursuit"), max_iterations=300)
    with pytest.raises(ArtefactError, match=r"steps of the pursuit: got 300, want 1 to 256"):
        load_sae("s", tmp_path, "saelens")


@pytest.mark.parametrize("form", ["topk", "jumprelu"])
def test_saelens_polynomial_decoders(tmp_path: Path, form: str) -> None:
    made = files.poly_book(form, subtracts_b_dec=True)
    sae = load_sae("s", files.saelens(tmp_path, made), "saelens")
    assert sae.needs_all_codes
    check(sae, made)


@pytest.mark.parametrize(("order", "dead"), [(1, ("C2", "C3")), (2, ("C3",))])
def test_a_polynomial_ends_with_its_order(
    tmp_path: Path, order: int, dead: tuple[str, ...]
) -> None:
    made = files.poly_book("topk")
    folder = files.saelens(tmp_path, made, poly_order=order)
    assert made.poly is not None
    made.poly |= {name: np.zeros_like(made.poly[name]) for name in dead}
    check(load_sae("s", folder, "saelens"), made)


def test_a_polynomials_factors_can_be_one(tmp_path: Path) -> None:
    made = files.poly_book("topk")
    assert made.poly is not None
    shared = made.poly["U1"]
    folder = files.saelens(tmp_path, made, shared_u=True)
    files.save(folder / "sae_weights.safetensors", files.lens_tensors(made) | {"U_shared": shared})
    made.poly |= {"U2": shared[:, :6], "U3": shared[:, :3]}
    check(load_sae("s", folder, "saelens"), made)


def test_itda(tmp_path: Path) -> None:
    made = book(
        "pursuit", is_signed=True, tolerance=0.0, ends_on_repeat=False, b_dec=np.zeros(WIDTH)
    )
    sae = load_sae("s", files.itda(tmp_path, made), "itda")
    check(sae, made)
    assert (encode(sae, hidden()) < 0).any()


@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_top_afa(tmp_path: Path, norm: str) -> None:
    made = book("top_afa", norm=norm, subtracts_b_dec=True)
    folder = files.top_afa(tmp_path, made)
    sae = load_sae("s", folder, "top-afa")
    check(sae, made)
    counts = (encode(sae, hidden()) > 0).sum(axis=1)
    assert counts.min() < counts.max()


@pytest.mark.parametrize("form", ["relu", "gated", "topk"])
def test_saelens_3_to_5(tmp_path: Path, form: str) -> None:
    made = book(form, subtracts_b_dec=True)
    check(load_sae("s", files.saelens_3(tmp_path, made), "saelens"), made)


@pytest.mark.parametrize("said", [True, "expected_average_only_in"])
def test_saelens_scales_by_the_average_norm(tmp_path: Path, said: object) -> None:
    made = book("relu", scale=np.sqrt(WIDTH) / 6.0, subtracts_b_dec=True)
    folder = files.saelens_3(tmp_path, made, normalize_activations=said)
    check(load_sae("s", folder, "saelens", SaeHints(average_norm=6.0)), made)


def test_saelens_centres_where_the_model_was_centred(tmp_path: Path) -> None:
    made = book("relu", is_centred=True)
    folder = files.saelens(tmp_path, made)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    files.write_json(folder / "cfg.json", config)
    check(load_sae("s", folder, "saelens"), made)


def test_the_operators_model_wins_over_transformer_lens_name(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path, book())
    assert load_sae("s", folder, "saelens", SaeHints(model_id="org/demo")).model_id == "org/demo"


def test_an_sae_of_heads_sits_before_the_output_projection(tmp_path: Path) -> None:
    made = book()
    folder = files.saelens_3(tmp_path, made, hook_point="blocks.3.attn.hook_z")
    check(load_sae("s", folder, "saelens"), made, Tap(3, "attn_heads"))


def test_gemma_scope(tmp_path: Path) -> None:
    made = book("jumprelu")
    check(load_sae("s", files.gemma_scope(tmp_path, made), "gemma-scope", HERE), made)


def test_gemma_scope_2(tmp_path: Path) -> None:
    made = book("jumprelu")
    check(load_sae("s", files.gemma_scope_2(tmp_path, made), "gemma-scope-2"), made)


def test_llama_scope(tmp_path: Path) -> None:
    scale = np.sqrt(WIDTH) / 5.0
    made = book("jumprelu", scale=scale, threshold=THRESHOLD * scale)
    folder = files.llama_scope(tmp_path, made, norm=5.0, threshold=0.5)
    check(load_sae("s", folder, "llama-scope", SaeHints(model_id="demo")), made)


def test_llama_scope_r1(tmp_path: Path) -> None:
    made = book("jumprelu", scale=np.sqrt(WIDTH) / 5.0)
    folder = files.llama_scope_r1(tmp_path, made)
    check(load_sae("s", folder, "llama-scope-r1", SaeHints(average_norm=5.0)), made)


@pytest.mark.parametrize("form", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("norms", ["select", "ignored"])
def test_llamascopium(tmp_path: Path, form: str, norms: str) -> None:
    made = book(form, scale=np.sqrt(WIDTH) / 5.0, norms=norms)
    check(load_sae("s", files.llamascopium(tmp_path, made), "llamascopium"), made)


def test_llamascopium_in_inference_mode_scales_nothing(tmp_path: Path) -> None:
    made = book("jumprelu")
    folder = files.llamascopium(tmp_path, made, norm_activation="inference")
    check(load_sae("s", folder, "llamascopium"), made)


def test_llamascopium_scales_each_token(tmp_path: Path) -> None:
    made = book("jumprelu", norm="constant_norm")
    folder = files.llamascopium(tmp_path, made, norm_activation="token-wise")
    check(load_sae("s", folder, "llamascopium"), made)


def test_sparsify(tmp_path: Path) -> None:
    made = book("topk", subtracts_b_dec=True)
    folder = files.sparsify(tmp_path, made)
    check(load_sae("s", folder, "sparsify", SaeHints(model_id="demo")), made)


def test_qwen_scope(tmp_path: Path) -> None:
    made = book("topk")
    folder = files.qwen_scope(tmp_path, made)
    check(load_sae("s", folder, "qwen-scope", SaeHints(model_id="demo", layer=4)), made)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("AutoEncoder", "relu"),
        ("AutoEncoderTopK", "topk"),
        ("BatchTopKSAE", "jumprelu"),
        ("MatryoshkaBatchTopKSAE", "jumprelu"),
        ("JumpReluAutoEncoder", "jumprelu"),
        ("GatedAutoEncoder", "gated"),
    ],
)
def test_dictionary_learning(tmp_path: Path, kind: str, form: str) -> None:
    subtracts = kind != "JumpReluAutoEncoder"
    made = book(form, subtracts_b_dec=subtracts)
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        made.threshold = THRESHOLD
    folder = files.dictionary_learning(tmp_path, made, kind)
    check(load_sae("s", folder, "dictionary_learning"), made)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types_are_read(tmp_path: Path, dtype: str) -> None:
    made = book("jumprelu")
    folder = files.saelens(tmp_path, made)
    tensors = files.lens_tensors(made)
    files.save(folder / "sae_weights.safetensors", tensors, np.dtype(dtype))
    for name, each in tensors.items():
        rounded = each.astype(dtype).astype(np.float64)
        setattr(made, name, rounded)
    check(load_sae("s", folder, "saelens"), made)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    made = book("jumprelu")
    folder = files.saelens(tmp_path, made)
    tensors = {k: torch.tensor(v).bfloat16() for k, v in files.lens_tensors(made).items()}
    save_file(tensors, folder / "sae_weights.safetensors")
    for name, each in tensors.items():
        setattr(made, name, each.double().numpy())
    check(load_sae("s", folder, "saelens"), made)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1])
def test_bfloat16_that_is_not_finite_is_refused(tmp_path: Path, bits: int) -> None:
    folder = files.saelens(tmp_path, book("jumprelu"))
    tensors = {
        k: torch.tensor(v).bfloat16() for k, v in files.lens_tensors(book("jumprelu")).items()
    }
    tensors["W_enc"].view(torch.int16)[3, 4] = np.uint16(bits).view(np.int16).item()
    save_file(tensors, folder / "sae_weights.safetensors")
    with pytest.raises(ArtefactError, match="W_enc: got 1 values that are NaN or infinite"):
        load_sae("s", folder, "saelens")


def test_weights_lie_in_the_file_and_not_in_memory(tmp_path: Path) -> None:
    sae = load_saelens("s", files.saelens(tmp_path, book()), SaeHints())
    for each in (sae.encoder_DM, sae.decoder_MD):
        assert not each.raw.flags.owndata
        assert not each.raw.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            each.raw[0, 0] = 1.0


def test_any_number_and_any_meaning_changes_the_digest(tmp_path: Path) -> None:
    made = book("jumprelu")
    digests = {load_sae("s", files.saelens(tmp_path / "a", made), "saelens").digest}
    assert load_sae("t", files.saelens(tmp_path / "b", made), "saelens").digest in digests
    folder = files.saelens(tmp_path / "c", made, apply_b_dec_to_input=True)
    digests.add(load_sae("s", folder, "saelens").digest)
    assert made.threshold is not None
    made.threshold[3] += 1.0
    digests.add(load_sae("s", files.saelens(tmp_path / "d", made), "saelens").digest)
    assert len(digests) == 3


def test_largest_codes_and_labels_are_read_where_they_lie(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path, book())
    plain = load_sae("s", folder, "saelens")
    assert plain.max_act_M is None
    assert not plain.labels
    maxima = np.arange(FEATURES, dtype=np.float32)
    files.save(folder / "features.safetensors", {"max_act": maxima})
    files.write_json(folder / "labels.json", {"3": "rain", "17": "a harbour"})
    sae = load_sae("s", folder, "saelens")
    assert sae.max_act_M is not None
    assert np.array_equal(sae.max_act_M, maxima)
    assert sae.labels == {3: "rain", 17: "a harbour"}
    assert sae.digest != plain.digest


def test_a_format_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="registered twice"):
        register("saelens", FORMATS["saelens"])
    with pytest.raises(ArtefactError, match=r"saes\.s: format: got 'gguf', want one of"):
        load_sae("s", Path(), "gguf")


@pytest.mark.parametrize("length", [128, 0x0280])
def test_a_header_as_long_as_a_pickle_begins_is_read(tmp_path: Path, length: int) -> None:
    place = tmp_path / "w.safetensors"
    head = b'{"b_dec":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    place.write_bytes(len(head).to_bytes(8, "little") + head + np.float32(3).tobytes())
    assert map_safetensors(place)[0]["b_dec"].whole().tolist() == [3.0]
