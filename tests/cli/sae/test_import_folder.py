"""`sae import` and `sae show`: every layout becomes the same SAE in our own."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from safetensors.numpy import load_file
from typer.testing import CliRunner

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.detect import detect_format
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.mapped_file import map_safetensors
from pilothouse.artifacts.saes.polynomial import take_factors
from pilothouse.artifacts.saes.registry import FORMATS, load_sae
from pilothouse.cli.sae import app
from pilothouse.edits.sae_codes import decode, encode
from pilothouse.errors import ArtefactError, ConfigError
from tests.support.artifacts import sae_files as files
from tests.support.artifacts.sae_files import FEATURES, NAME, WIDTH, book, hidden, save, write_json

RUN = CliRunner()
HERE = ("--model-id", NAME, "--layer", "4", "--site", "resid_post")
LAYOUTS: dict[str, tuple[str, Callable[[Path], Path], tuple[str, ...]]] = {
    "saelens": ("saelens", lambda at: files.saelens(at, book("gated")), ()),
    "saelens 3": ("saelens", lambda at: files.saelens_3(at, book("topk")), ()),
    "gemma-scope": ("gemma-scope", lambda at: files.gemma_scope(at, book("jumprelu")), HERE),
    "gemma-scope-2": ("gemma-scope-2", lambda at: files.gemma_scope_2(at, book("jumprelu")), ()),
    "llama-scope": (
        "llama-scope",
        lambda at: files.llama_scope(at, book(), 5.0, 0.1),
        ("--model-id", NAME),
    ),
    "llama-scope-r1": (
        "llama-scope-r1",
        lambda at: files.llama_scope_r1(at, book("jumprelu")),
        ("--average-norm", "5"),
    ),
    "llamascopium": (
        "llamascopium",
        lambda at: files.llamascopium(at, book("jumprelu", norms="select")),
        (),
    ),
    "sparsify": ("sparsify", lambda at: files.sparsify(at, book("topk")), ("--model-id", NAME)),
    "qwen-scope": (
        "qwen-scope",
        lambda at: files.qwen_scope(at, book("topk")),
        HERE[:4],
    ),
    "dictionary_learning": (
        "dictionary_learning",
        lambda at: files.dictionary_learning(at, book("gated"), "GatedAutoEncoder"),
        (),
    ),
    "matching pursuit": ("saelens", lambda at: files.saelens(at, book("pursuit")), ()),
    "polynomial": ("saelens", lambda at: files.saelens(at, files.poly_book("topk")), ()),
    "polynomial of order 2": (
        "saelens",
        lambda at: files.saelens(at, files.poly_book("jumprelu"), poly_order=2),
        (),
    ),
    "itda": ("itda", lambda at: files.itda(at, book("pursuit")), ()),
    "top-afa": ("top-afa", lambda at: files.top_afa(at, book("top_afa")), ()),
}


def run(place: Path, out: Path, *words: str) -> Result:
    return RUN.invoke(app, ["import", str(place), "--out", str(out), *words])


def told(words: tuple[str, ...]) -> SaeHints:
    given = dict(zip(words[::2], words[1::2], strict=True))
    layer, norm = given.get("--layer"), given.get("--average-norm")
    return SaeHints(
        given.get("--model-id"),
        int(layer) if layer else None,
        "resid_post" if "--site" in given else None,
        float(norm) if norm else None,
    )


def same(ours: Sae, other: Sae) -> None:
    """Codes and what they stand for are equal up to rounding, and what an SAE says is the same."""
    h_TD = hidden()
    codes_TM = encode(other, h_TD)
    assert 0.02 < (codes_TM != 0).mean() < 0.98
    # A product of other memory layouts may be added up in another order.
    np.testing.assert_allclose(encode(ours, h_TD), codes_TM, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        decode(ours, codes_TM, h_TD), decode(other, codes_TM, h_TD), rtol=1e-5, atol=1e-6
    )
    for name in ("model_id", "tap", "form", "k", "normalisation", "is_centred", "pursuit"):
        assert getattr(ours, name) == getattr(other, name)


def test_every_layout_that_is_read_is_imported() -> None:
    assert {name for name, *_ in LAYOUTS.values()} | {"pilothouse"} == set(FORMATS)


@pytest.mark.parametrize("case", LAYOUTS)
def test_an_import_is_the_same_sae(tmp_path: Path, case: str) -> None:
    name, make, words = LAYOUTS[case]
    folder = make(tmp_path / "theirs")
    assert detect_format(folder) == name
    result = run(folder, tmp_path / "ours", *words)
    assert result.exit_code == 0, result.output
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ours", "theirs"]
    assert detect_format(tmp_path / "ours") == "pilothouse"
    ours = load_sae("ours", tmp_path / "ours", "pilothouse")
    same(ours, load_sae("theirs", folder, name, told(words)))
    source = json.loads((tmp_path / "ours" / "manifest.json").read_text())["source"]
    read = {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}
    assert (source["format"], set(source["files"])) == (name, read)


def test_weights_keep_the_type_that_they_had(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path / "theirs", book("jumprelu"))
    place = folder / "sae_weights.safetensors"
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    halved = {name: each.bfloat16() for name, each in load_torch(place).items()}
    save_torch(halved, place)
    assert run(folder, tmp_path / "ours").exit_code == 0
    ours = load_sae("ours", tmp_path / "ours", "pilothouse")
    assert ours.encoder_DM.is_bfloat16
    same(ours, load_sae("theirs", folder, "saelens"))
    with safe_open(tmp_path / "ours" / "weights.safetensors", "pt") as opened:
        assert torch.equal(opened.get_tensor("W_enc"), halved["W_enc"])


def as_pickle(weights: Path, pickle_place: Path, **more: Any) -> None:
    """What a library saves by torch.save; the safetensors are gone."""
    tensors = {name: torch.from_numpy(each) for name, each in load_file(weights).items()}
    torch.save(tensors | more, pickle_place)
    weights.unlink()


PICKLED: dict[str, tuple[str, Callable[[Path], Path], str, tuple[str, ...]]] = {
    "qwen-scope": (
        "qwen-scope",
        lambda at: files.qwen_scope(at, book("topk")),
        "layer4.sae",
        HERE[:4],
    ),
    "dictionary_learning": (
        "dictionary_learning",
        lambda at: files.dictionary_learning(at, book("topk", k=9), "AutoEncoderTopK"),
        "ae",
        (),
    ),
    "itda": ("itda", LAYOUTS["itda"][1], "atoms", LAYOUTS["itda"][2]),
    "top-afa": ("top-afa", LAYOUTS["top-afa"][1], "sae", LAYOUTS["top-afa"][2]),
}


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_is_converted_only_where_that_is_said(tmp_path: Path, name: str) -> None:
    _, make, stem, words = PICKLED[name]
    want = load_sae("s", make(tmp_path / "safe"), name, told(words))
    folder = make(tmp_path / "theirs")
    as_pickle(folder / f"{stem}.safetensors", folder / f"{stem}.pt")
    refused = run(folder, tmp_path / "ours", *words)
    assert refused.exit_code == 1
    assert "--allow-pickle-weights" in refused.output
    assert not (tmp_path / "ours").exists()
    result = run(folder / f"{stem}.pt", tmp_path / "ours", "--allow-pickle-weights", *words)
    assert result.exit_code == 0, result.output
    same(load_sae("ours", tmp_path / "ours", "pilothouse"), want)
    source = json.loads((tmp_path / "ours" / "manifest.json").read_text())["source"]
    assert f"{stem}.pt" in source["files"]


def test_a_pickled_tensor_without_a_name_is_itdas(tmp_path: Path) -> None:
    want = load_sae("s", files.itda(tmp_path / "safe", book("pursuit")), "itda")
    folder = files.itda(tmp_path / "theirs", book("pursuit"))
    atoms = load_file(folder / "atoms.safetensors")["atoms"]
    torch.save(torch.from_numpy(atoms), folder / "atoms.pt")
    (folder / "atoms.safetensors").unlink()
    result = run(folder, tmp_path / "ours", "--allow-pickle-weights")
    assert result.exit_code == 0, result.output
    same(load_sae("ours", tmp_path / "ours", "pilothouse"), want)


FACTORS: dict[str, tuple[dict[str, Any], str]] = {
    "one missing": ({"joint_second_MQ": None}, "factors: got"),
    "of other features": ({"joint_third_MC": np.ones((3, 3))}, r"third_MC: got shape \[3, 3\]"),
    "NaN": ({"joint_cube_DC": np.full((WIDTH, 3), np.nan)}, "cube_DC: .* want finite"),
}


@pytest.mark.parametrize("case", FACTORS)
def test_factors_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    changes, said = FACTORS[case]
    run(files.saelens(tmp_path / "theirs", files.poly_book("topk")), tmp_path / "ours")
    place = tmp_path / "ours" / "weights.safetensors"
    tensors = load_file(place) | changes
    files.save(place, {name: each for name, each in tensors.items() if each is not None})
    with pytest.raises(ArtefactError, match=said):
        take_factors(place, map_safetensors(place)[0])


def test_a_norm_that_is_said_is_kept(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path / "theirs", book())
    assert run(folder, tmp_path / "ours", "--average-norm", "3").exit_code == 0
    assert load_sae("ours", tmp_path / "ours", "pilothouse").average_norm == 3.0
    assert load_sae("o", tmp_path / "ours", None, SaeHints(average_norm=4.0)).average_norm == 4.0


def test_labels_and_maxima_come_along(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path / "theirs", book())
    write_json(folder / "labels.json", {"3": "rain", "7": "a ship"})
    save(folder / "features.safetensors", {"max_act": np.arange(FEATURES)})
    assert run(folder, tmp_path / "ours").exit_code == 0
    ours = load_sae("ours", tmp_path / "ours", "pilothouse")
    assert dict(ours.labels) == {3: "rain", 7: "a ship"}
    assert ours.max_act_M is not None and ours.max_act_M[9] == 9.0


def test_json_is_the_manifest(tmp_path: Path) -> None:
    result = run(files.saelens(tmp_path / "theirs", book()), tmp_path / "ours", "--json")
    assert json.loads(result.output) == json.loads((tmp_path / "ours/manifest.json").read_text())


def field(name: str, value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        raw = json.loads((folder / "manifest.json").read_text())
        write_json(folder / "manifest.json", raw | {name: value})

    return spoil


def flipped(folder: Path) -> None:
    place = folder / "weights.safetensors"
    data = bytearray(place.read_bytes())
    data[-5] ^= 1
    place.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (field("layer", 3), "digest: got"),
        (field("k", 3), "digest: got"),
        (field("form", "spline"), "form: got 'spline'"),
        (field("kind", "vector"), "kind: got 'vector'"),
        (field("note", "hello"), "note: unknown field"),
        (flipped, "weights_sha256: got"),
        (lambda at: (at / "weights.safetensors").unlink(), "weights.safetensors: file: got"),
    ],
)
def test_an_import_that_was_changed_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    assert run(files.saelens(tmp_path / "theirs", book()), tmp_path / "ours").exit_code == 0
    spoil(tmp_path / "ours")
    with pytest.raises(ArtefactError, match=said):
        load_sae("ours", tmp_path / "ours", "pilothouse")


class Bomb:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, ("ran",)


def hostile(content: Any) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            torch.save(content, place)

    return write


def bad_tensor(value: float) -> Any:
    W_enc = torch.ones(WIDTH, FEATURES).T.contiguous()
    W_enc[3, 2] = value
    return {
        "encoder.weight": W_enc,
        "encoder.bias": torch.ones(FEATURES),
        "decoder.weight": torch.ones(WIDTH, FEATURES),
        "bias": torch.ones(WIDTH),
    }


def linked(place: Path) -> None:
    elsewhere = place.parent.with_name("elsewhere")
    torch.save(bad_tensor(1.0), elsewhere)
    place.symlink_to(elsewhere)


def packed(method: int, rename: str = "") -> Callable[[Path], None]:
    """A torch file packed again, compressed or under names that lead elsewhere."""

    def write(place: Path) -> None:
        stored = io.BytesIO()
        torch.save({"bias": torch.zeros(1 << 20)}, stored)
        with zipfile.ZipFile(stored) as source, zipfile.ZipFile(place, "w", method) as target:
            for name in source.namelist():
                target.writestr(rename + name, source.read(name))

    return write


PICKLES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a plain pickle that calls": (hostile(pickle.dumps(Bomb())), "content: got"),
    "a torch file that calls": (hostile({"encoder.weight": Bomb()}), "content: got"),
    "empty": (hostile(b""), "size: got 0 bytes"),
    "text": (hostile(b"no weights at all"), "content: got b'no weigh'"),
    "cut": (hostile(b"PK\x03\x04 cut"), "archive: got BadZipFile"),
    "a zip bomb": (packed(zipfile.ZIP_DEFLATED), "data.pkl: got compressed, "),
    "traversal": (packed(zipfile.ZIP_STORED, "../"), "archive: got entry '../"),
    "a list": (hostile([torch.ones(3)]), "content: got list"),
    "no tensors": (hostile({}), "content: got 0 entries"),
    "a word": (hostile({"encoder.weight": "one"}), "encoder.weight: got str"),
    "nested": (hostile({"ae": {"encoder.weight": torch.ones(3)}}), "ae: got dict"),
    "within training": (
        hostile({"ae": torch.ones(3), "norm_factor": 3.0}),
        "norm_factor: got one beside",
    ),
    "four sizes": (hostile({"bias": torch.ones(1, 1, 1, 1)}), "bias: got float32 of shape"),
    "complex": (hostile({"bias": torch.ones(3, dtype=torch.complex64)}), "bias: got complex64"),
    "NaN": (hostile(bad_tensor(float("nan"))), "W_enc: got 1 values that are NaN"),
    "infinite": (hostile(bad_tensor(float("inf"))), "W_enc: got 1 values that are NaN"),
    "other names": (hostile({"weird": torch.ones(3)}), r"tensors: got ['weird']"),
    "a link": (linked, "got a symbolic link"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_hostile_pickle_leaves_nothing(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, said = PICKLES[case]
    folder = files.dictionary_learning(tmp_path / "theirs", book(), "AutoEncoder")
    (folder / "ae.safetensors").unlink()
    write(folder / "ae.pt")
    before = sorted(tmp_path.rglob("*"))
    result = run(folder, tmp_path / "ours", "--allow-pickle-weights")
    assert result.exit_code == 1, result.output
    assert said in result.output
    assert result.output.partition(", want ")[2].partition("; ")[2], "no remedy"
    assert sorted(tmp_path.rglob("*")) == before, "something was written, or ran"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--layer", "5"), 1, "layer: got 4, want 5"),
        (("--site", "nowhere"), 2, "--site: got 'nowhere'"),
        (("--format", "lens"), 1, "format: got 'lens'"),
        (("--measure", "p.txt"), 2, "give both"),
    ],
)
def test_options_that_do_not_fit_write_nothing(
    tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    folder = files.saelens(tmp_path / "theirs", book())
    result = run(folder, tmp_path / "ours", *words)
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert [each.name for each in tmp_path.iterdir()] == ["theirs"]


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path / "theirs", book())
    assert run(folder, folder).exit_code == 2


@pytest.mark.parametrize("names", [(), ("weights.bin",), ("params.npz", "hyperparams.json")])
def test_files_of_no_layout_or_of_two_are_told(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"format: got (none in|gemma-scope and llama-scope)"):
        detect_format(tmp_path)


def shown(folder: Path, *words: str) -> Result:
    return RUN.invoke(app, ["show", str(folder), *words])


def test_show_tells_what_an_sae_is_and_what_can_be_edited(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path / "theirs", book("jumprelu"))
    write_json(folder / "labels.json", {str(each): f"label {each}" for each in range(9)})
    run(folder, tmp_path / "ours")
    result = shown(tmp_path / "ours")
    assert result.exit_code == 0, result.output
    for text in (
        "model     demo, resid_post of layer 4",
        f"width {WIDTH}, {FEATURES} features",
        "form      jumprelu",
        "edits     each feature by itself",
        "label 0",
        "... and 1 more",
        "(saelens), revision none",
        "cfg.json",
    ):
        assert text in result.output


def test_show_as_json_has_the_digest_that_is_served(tmp_path: Path) -> None:
    folder = files.saelens(tmp_path, book("relu"))
    about = json.loads(shown(folder, "--json").output)
    assert about["digest"] == load_sae("s", folder, "saelens").digest
    assert (about["format"], about["edits"], about["probes"]) == ("saelens", True, True)


def test_show_says_why_an_sae_cannot_be_used(tmp_path: Path) -> None:
    result = shown(files.sparsify(tmp_path, book("topk", k=41)), "--model-id", NAME)
    assert result.exit_code == 1
    assert "k: got 41" in result.output
