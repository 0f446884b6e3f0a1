"""Files that are malformed, hostile or something else give one error each, and nothing is loaded.

Each message names the file, the field and what to do.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.errors import ArtefactError
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import FEATURES, WIDTH, book, lens_tensors, save, write_json

HERE = SaeHints(model_id="demo", layer=4, site="resid_post")
Spoil = Callable[[Path], None]


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def config(**changes: Any) -> Spoil:
    """Change cfg.json; None takes a field out."""

    def spoil(folder: Path) -> None:
        raw = json.loads((folder / "cfg.json").read_text()) | changes
        write_json(folder / "cfg.json", {k: v for k, v in raw.items() if v is not None})

    return spoil


def metadata(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        raw = json.loads((folder / "cfg.json").read_text())
        raw["metadata"] |= changes
        write_json(folder / "cfg.json", raw)

    return spoil


def weights(**changes: Any) -> Spoil:
    """Change tensors; None takes one out."""

    def spoil(folder: Path) -> None:
        tensors = lens_tensors(book("jumprelu")) | changes
        kept = {k: v for k, v in tensors.items() if v is not None}
        save(folder / "sae_weights.safetensors", kept)

    return spoil


def raw_weights(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        place = folder / "sae_weights.safetensors"
        place.write_bytes(change(place.read_bytes()))

    return spoil


def header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the header of the weights and leave the data."""

    def rewritten(old: bytes) -> bytes:
        size = int.from_bytes(old[:8], "little")
        told = json.loads(old[8 : 8 + size])
        change(told)
        new = json.dumps(told).encode()
        return len(new).to_bytes(8, "little") + new + old[8 + size :]

    return raw_weights(rewritten)


def text(place: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / place).write_bytes(content)

    return spoil


def linked(place: str) -> Spoil:
    def spoil(folder: Path) -> None:
        target = folder.parent / "elsewhere"
        (folder / place).rename(target)
        (folder / place).symlink_to(target)

    return spoil


def removed(place: str) -> Spoil:
    return lambda folder: (folder / place).unlink()


def with_nan(value: float) -> Any:
    W_dec = book("jumprelu").W_dec.copy()
    W_dec[5, 3] = value
    return W_dec


def torch_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    return file.getvalue()


WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
SAELENS: dict[str, tuple[Spoil, str]] = {
    "no config": (removed(CONFIG), "cfg.json: file: got No such file"),
    "config no JSON": (text(CONFIG, b"{"), "cfg.json: content: got JSONDecodeError"),
    "config a list": (text(CONFIG, b"[]"), "content: got list, want a JSON object"),
    "config deep": (text(CONFIG, b"[" * 200_000), "cfg.json: content: got RecursionError"),
    "config huge": (text(CONFIG, b" " * (5 << 20)), "cfg.json: size: got 5242880 bytes"),
    "config NaN": (text(CONFIG, b'{"d_in": NaN}'), "number: got NaN"),
    "config twice": (text(CONFIG, b'{"d_in": 1, "d_in": 2}'), "each field once"),
    "config linked": (linked(CONFIG), "cfg.json: file: got a symbolic link"),
    "no weights": (removed(WEIGHTS), "sae_weights.safetensors: file: got No such file"),
    "weights linked": (linked(WEIGHTS), "safetensors: file: got a symbolic link"),
    "weights empty": (text(WEIGHTS, b""), "file: got 0 bytes"),
    "weights pickled": (text(WEIGHTS, pickle.dumps(Bomb())), "got a pickle or a PyTorch archive"),
    "weights zipped": (text(WEIGHTS, torch_archive()), "got a pickle or a PyTorch archive"),
    "weights cut": (raw_weights(lambda old: old[:-7]), "data_offsets: got"),
    "weights longer": (raw_weights(lambda old: old + b"more"), "size: got"),
    "header endless": (raw_weights(lambda old: b"\xff" * 7 + b"\x00" + old[8:]), "header: got"),
    "header no JSON": (raw_weights(lambda old: old[:8] + b"x" + old[9:]), "content: got"),
    "tensors overlap": (
        header(lambda told: told["b_enc"].update(data_offsets=told["threshold"]["data_offsets"])),
        "data_offsets: got",
    ),
    "offset negative": (
        header(lambda told: told["b_dec"].update(data_offsets=[-48, 0])),
        "b_dec.data_offsets: got",
    ),
    "shape a lie": (
        header(lambda told: told["W_enc"].update(shape=[1 << 20, 1 << 20])),
        "W_enc.data_offsets",
    ),
    "shape negative": (header(lambda told: told["W_enc"].update(shape=[-1, -480])), "W_enc.shape"),
    "shape of truth": (header(lambda told: told["b_dec"].update(shape=[True])), "b_dec"),
    "shape of text": (header(lambda told: told["b_dec"].update(shape="12")), "b_dec: got"),
    "quantised": (header(lambda told: told["b_dec"].update(dtype="F8_E4M3")), "b_dec.dtype: got"),
    "NaN": (weights(W_dec=with_nan(np.nan)), "W_dec: got 1 values that are NaN"),
    "infinite": (weights(W_dec=with_nan(np.inf)), "W_dec: got 1 values that are NaN"),
    "transposed": (weights(W_dec=book().W_dec.T), r"W_dec: got shape \[12, 40\], want shape \[40"),
    "wrong width": (weights(b_dec=np.zeros(WIDTH + 1)), r"b_dec: got shape \[13\]"),
    "tensor missing": (weights(b_enc=None), r"tensors: .* want \['b_enc'\] too"),
    "tensor too many": (weights(W_skip=np.eye(WIDTH)), r"tensors: got \['W_skip'\]"),
    "flat": (weights(W_enc=np.zeros(9)), "W_enc: got shape"),
    "scaled": (weights(scaling_factor=np.full(FEATURES, 2.0)), "scaling_factor: got numbers other"),
    "width lies": (config(d_in=13), "cfg.json: d_in: got 13, want 12"),
    "count lies": (config(d_sae=41), "cfg.json: d_sae: got 41, want 40"),
    "width missing": (config(d_in=None), "d_in: got None"),
    "count of text": (config(d_sae="many"), "d_sae: got 'many'"),
    "matching pursuit": (
        config(architecture="matching_pursuit"),
        r"tensors: .* want none but \['W_dec', 'b_dec'\]",
    ),
    "temporal": (config(architecture="temporal"), "architecture: .*tokens before"),
    "transcoder": (config(architecture="transcoder"), "architecture: .*reads at one place"),
    "polynomial without factors": (config(architecture="poly_jumprelu"), "of a PolySAE"),
    "polynomial by batch": (config(architecture="poly_batchtopk"), "architecture: .*as poly_jump"),
    "unknown": (config(architecture="crosscoder"), "architecture: .*not known"),
    "activation": (config(activation_fn_str="tanh-relu"), "activation_fn_str: got 'tanh-relu'"),
    "no k": (config(architecture="topk"), "cfg.json: k: got nothing, nor `activation_fn_kwargs.k`"),
    "whitened": (config(normalize_activations="covariance_whitening"), "normalize_activations"),
    "unknown scale": (
        config(normalize_activations="expected_average_only_in"),
        "average norm: got nothing",
    ),
    "flag of text": (config(apply_b_dec_to_input="yes"), "apply_b_dec_to_input: got 'yes'"),
    "one head": (metadata(hook_head_index=3), "hook_head_index: got 3"),
    "no place": (metadata(hook_name="blocks.4.ln2.hook_normalized"), "hook_name: got"),
    "path as a place": (metadata(hook_name="../../etc/passwd"), "hook_name: got"),
    "reshaped": (config(reshape_activations="fold"), "reshape_activations: got 'fold'"),
    "metadata a list": (config(metadata=[1]), "metadata: got"),
    "chosen by norms": (config(rescale_acts_by_decoder_norm=True), "rescale_acts_by_decoder"),
}


@pytest.mark.parametrize("case", SAELENS)
def test_saelens_files(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = files.saelens(tmp_path / "sae", book("jumprelu"))
    load_sae("s", folder, "saelens")
    spoil, said = SAELENS[case]
    spoil(folder)
    with pytest.raises(ArtefactError, match=said) as caught:
        load_sae("s", folder, "saelens")
    assert "want" in str(caught.value)
    assert "; " in str(caught.value), "no remedy"
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "ran").exists()


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def as_npy(array: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


BOMB_ARRAY = as_npy(np.zeros((4096, 4096), np.float32))
ARCHIVES: dict[str, tuple[bytes, str]] = {
    "no archive": (b"nothing of the kind", "file: got BadZipFile"),
    "zip bomb": (packed({"W_enc.npy": BOMB_ARRAY}, zipfile.ZIP_DEFLATED), "size: got 67108"),
    "traversal": (packed({"../W_enc.npy": as_npy(np.ones(3))}), "member: got '../W_enc.npy'"),
    "no array": (packed({"W_enc.txt": b"1 2 3"}), "member: got 'W_enc.txt'"),
    "junk array": (packed({"W_enc.npy": b"1 2 3" * 9}), "W_enc.npy: got ValueError"),
    "objects": (
        packed({"W_enc.npy": as_npy(np.array([Bomb()], object), allow_pickle=True)}),
        r"W_enc.npy: got object",
    ),
    "integers": (packed({"W_enc.npy": as_npy(np.ones(3, int))}), "W_enc.npy: got int64"),
    "cut array": (packed({"W_enc.npy": as_npy(np.ones((9, 9)))[:-8]}), "W_enc.npy: got 768 bytes"),
    "many members": (
        packed({f"a{i}.npy": as_npy(np.ones(1)) for i in range(40)}),
        "members: got 40",
    ),
    "other tensors": (packed({"W.npy": as_npy(np.ones((2, 2)))}), r"tensors: got \['W'\]"),
    "nothing inside": (packed({}), "tensors: got"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = ARCHIVES[case]
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(ArtefactError, match=said):
        load_sae("s", tmp_path, "gemma-scope", HERE)
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder = files.gemma_scope(tmp_path, book("jumprelu"))
    linked("params.npz")(folder)
    with pytest.raises(ArtefactError, match="got a symbolic link"):
        load_sae("s", folder, "gemma-scope", HERE)


def test_gemma_scope_of_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "embedding" / "width_4k" / "average_l0_6"
    folder.mkdir(parents=True)
    with pytest.raises(ArtefactError, match="know a scaled embedding"):
        load_sae("s", folder, "gemma-scope", HERE)


OTHERS: dict[str, tuple[str, Callable[[Path], Path], SaeHints, str]] = {
    "nobody says the site": (
        "gemma-scope",
        lambda at: files.gemma_scope(at, book("jumprelu")),
        SaeHints(model_id="demo", layer=4),
        "site: got nothing",
    ),
    "two layers": (
        "gemma-scope-2",
        lambda at: files.gemma_scope_2(at, book("jumprelu")),
        SaeHints(layer=5),
        "layer: got 4, want 5 as pilothouse.yaml says",
    ),
    "gemma transcoder": (
        "gemma-scope-2",
        lambda at: files.gemma_scope_2(at, book("jumprelu"), hf_hook_point_out="model.layers.5"),
        SaeHints(),
        "hf_hook_point_out: got",
    ),
    "llama transcoder": (
        "llama-scope",
        lambda at: files.llama_scope(at, book(), 5.0, 0.1, hook_point_out="blocks.4.hook_mlp_out"),
        HERE,
        "hook_point_out: got",
    ),
    "no length": (
        "llama-scope",
        lambda at: files.llama_scope(at, book(), 0.0, 0.1),
        HERE,
        "average norm: got 0.0",
    ),
    "other format": (
        "saelens",
        lambda at: files.llama_scope(at, book(), 5.0, 0.1),
        HERE,
        "cfg.json: file: got",
    ),
    "unknown length": (
        "llama-scope-r1",
        lambda at: files.llama_scope_r1(at, book("jumprelu")),
        SaeHints(),
        "average norm: got nothing",
    ),
    "batch-wise": (
        "llamascopium",
        lambda at: files.llamascopium(at, book("relu"), norm_activation="batch-wise"),
        SaeHints(),
        "norm_activation: got 'batch-wise'",
    ),
    "batch top-k": (
        "llamascopium",
        lambda at: files.llamascopium(at, book("relu"), act_fn="batchtopk"),
        SaeHints(),
        "act_fn: got 'batchtopk'",
    ),
    "gated linear unit": (
        "llamascopium",
        lambda at: files.llamascopium(at, book("relu"), use_glu_encoder=True),
        SaeHints(),
        "use_glu_encoder: got True",
    ),
    "sparsify transcoder": (
        "sparsify",
        lambda at: files.sparsify(at, book("topk"), transcode=True),
        HERE,
        "transcode: got True",
    ),
    "sparsify groups": (
        "sparsify",
        lambda at: files.sparsify(at, book("topk"), activation="groupmax"),
        HERE,
        "activation: got 'groupmax'",
    ),
    "k too large": (
        "sparsify",
        lambda at: files.sparsify(at, book("topk"), k=41),
        HERE,
        "k: got 41",
    ),
    "no k in the name": (
        "qwen-scope",
        lambda at: files.qwen_scope(at, book("topk", k=0)),
        HERE,
        "folder's name: got",
    ),
    "another layer": (
        "qwen-scope",
        lambda at: files.qwen_scope(at, book("topk")),
        HERE._replace(layer=5),
        "layer5.sae.safetensors: file: got No such file",
    ),
    "no layer told": (
        "qwen-scope",
        lambda at: files.qwen_scope(at, book("topk")),
        SaeHints(model_id="demo"),
        "layer: got nothing",
    ),
    "unset threshold": (
        "dictionary_learning",
        lambda at: files.dictionary_learning(
            at, book("jumprelu", threshold=np.full(FEATURES, -1.0)), "BatchTopKSAE"
        ),
        SaeHints(),
        "threshold: got -1.0",
    ),
    "class unknown": (
        "dictionary_learning",
        lambda at: files.dictionary_learning(at, book(), "CrossCoder"),
        SaeHints(),
        "trainer.dict_class: got 'CrossCoder'",
    ),
    "class another": (
        "dictionary_learning",
        lambda at: files.dictionary_learning(at, book(), "AutoEncoder", dict_class="BatchTopKSAE"),
        SaeHints(),
        r"tensors: got \['bias'\]",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_files_of_other_formats(tmp_path: Path, case: str) -> None:
    name, make, told, said = OTHERS[case]
    with pytest.raises(ArtefactError, match=said):
        load_sae("s", make(tmp_path), name, told)


def test_a_pickle_of_qwen_scope_is_told_how_to_become_safetensors(tmp_path: Path) -> None:
    folder = files.qwen_scope(tmp_path, book("topk"))
    (folder / "layer4.sae.safetensors").unlink()
    (folder / "layer4.sae.pt").write_bytes(torch_archive())
    with pytest.raises(ArtefactError, match=r"layer4\.sae\.pt: file: got a pickle"):
        load_sae("s", folder, "qwen-scope", HERE)


def test_a_pickle_alone_is_told_how_to_become_safetensors(tmp_path: Path) -> None:
    folder = files.dictionary_learning(tmp_path, book(), "AutoEncoder")
    (folder / "ae.safetensors").unlink()
    (folder / "ae.pt").write_bytes(torch_archive())
    with pytest.raises(ArtefactError, match=r"ae\.pt: file: got a pickle, want ae\.saf"):
        load_sae("s", folder, "dictionary_learning")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda at: save(at / "features.safetensors", {"max_act": np.ones(3)}), "max_act: got sha"),
        (
            lambda at: save(at / "features.safetensors", {"max_act": -np.ones(FEATURES)}),
            "max_act: got NaN, infinite or negative",
        ),
        (lambda at: save(at / "features.safetensors", {"max": np.ones(3)}), "tensors: got"),
        (lambda at: write_json(at / "labels.json", {"40": "rain"}), "feature: got '40'"),
        (lambda at: write_json(at / "labels.json", {"-1": "rain"}), "feature: got '-1'"),
        (lambda at: write_json(at / "labels.json", {"3": ["rain"]}), "3: got"),
    ],
)
def test_what_lies_beside_an_sae_must_belong_to_it(tmp_path: Path, spoil: Spoil, said: str) -> None:
    folder = files.saelens(tmp_path, book())
    spoil(folder)
    with pytest.raises(ArtefactError, match=said):
        load_sae("s", folder, "saelens")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, got in (("nowhere", "nothing"), ("file", "a file")):
        with pytest.raises(ArtefactError, match=f"folder: got {got}, want a folder"):
            load_sae("s", tmp_path / name, "saelens")


POLYNOMIAL: dict[str, tuple[dict[str, Any], str]] = {
    "a factor missing": ({"U2": None}, "of a PolySAE"),
    "a factor of other features": ({"U2": np.ones((FEATURES - 1, 6))}, r"U2: got shape \[39, 6\]"),
    "an output of another width": ({"C3": np.ones((WIDTH + 1, 3))}, r"C3: got shape \[13, 3\]"),
    "NaN": ({"C1": np.full((WIDTH, 10), np.nan)}, "C1: got NaN"),
    "ranks that rise": (
        {"U3": np.ones((FEATURES, 9)), "C3": np.ones((WIDTH, 9))},
        "ranks that do not rise",
    ),
    "many lambdas": ({"lambda2": np.ones(2)}, "lambda2: .* want one number"),
    "a factor that is too narrow": ({"U1": np.ones((FEATURES, 9))}, "U1: .* 10 columns as C1"),
}


@pytest.mark.parametrize("case", POLYNOMIAL)
def test_polynomial_files(tmp_path: Path, case: str) -> None:
    changes, said = POLYNOMIAL[case]
    made = files.poly_book("topk")
    folder = files.saelens(tmp_path, made)
    tensors = lens_tensors(made) | changes
    save(folder / "sae_weights.safetensors", {k: v for k, v in tensors.items() if v is not None})
    with pytest.raises(ArtefactError, match=said):
        load_sae("s", folder, "saelens")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"k": 0}, "k: got 0"),
        ({"k": 1000}, "steps of the pursuit: got 1000"),
        ({"layer": -1}, "layer: got -1"),
        ({"activation_dim": 13}, "activation_dim: got 13"),
        ({"lm_name": None}, "lm_name: got None"),
    ],
)
def test_itda_files(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtefactError, match=said):
        load_sae("s", files.itda(tmp_path, book("pursuit"), **fields), "itda")


@pytest.mark.parametrize(
    "content", [b"a: [", b"- 1", b"a: !!python/object/apply:os.getcwd []", b"\xff"]
)
def test_itda_metadata_is_plain_yaml(tmp_path: Path, content: bytes) -> None:
    folder = files.itda(tmp_path, book("pursuit"))
    (folder / "metadata.yaml").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"metadata.yaml: content: got"):
        load_sae("s", folder, "itda")


def test_pickled_atoms_are_never_read(tmp_path: Path) -> None:
    folder = files.itda(tmp_path, book("pursuit"))
    (folder / "atoms.safetensors").rename(folder / "atoms.pt")
    with pytest.raises(ArtefactError, match=r"atoms.pt: file: got a pickle"):
        load_sae("s", folder, "itda")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sae_type": "topk"}, "sae_type: got 'topk'"),
        ({"act_size": 13}, "act_size: got 13"),
        ({"hook_point": "blocks.4.ln1"}, "hook_point"),
    ],
)
def test_top_afa_files(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtefactError, match=said):
        load_sae("s", files.top_afa(tmp_path, book("top_afa"), **fields), "top-afa")
