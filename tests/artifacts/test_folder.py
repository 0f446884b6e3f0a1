"""Malformed artefacts: each is refused with file, field, what was got and wanted, and a remedy."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pilothouse.artifacts.folder import REMADE
from pilothouse.artifacts.probe import load_probe, save_probe
from pilothouse.artifacts.vector import load_vector, save_vector
from pilothouse.errors import ArtefactError
from tests.support.artifacts.folders import D_MODEL, edit_manifest, probe, replace_weights, vector

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"


@pytest.fixture
def probe_folder(tmp_path: Path) -> Path:
    save_probe(probe(), tmp_path / "misuse")
    return tmp_path / "misuse"


@pytest.fixture
def vector_folder(tmp_path: Path) -> Path:
    save_vector(vector(), tmp_path / "cheerful")
    return tmp_path / "cheerful"


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: Any) -> None:
        for part in path[:-1]:
            raw = raw[part]
        raw[path[-1]] = value

    return change


def drop(field: str) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw.pop(field)


def refusal(folder: Path) -> str:
    with pytest.raises(ArtefactError) as caught:
        load_probe("misuse", folder)
    return str(caught.value)


THRESHOLD = {"target_fpr": 0.01, "value": 0.5, "n": 400, "exceedances": 0, "fpr_upper": 0.008}
BAD_FIELDS: dict[str, tuple[Callable[[dict[str, Any]], None], tuple[str, ...]]] = {
    "unknown format": (put("format", value="pilothouse/v9"), ("format", "'pilothouse/v9'")),
    "other kind": (put("kind", value="vector"), ("kind", "'vector'", "'probe'", "its own kind")),
    "unknown field": (put("scale", value=2), ("scale: unknown field", "known here")),
    "missing field": (drop("bias"), ("bias: is missing",)),
    "path in the name": (put("name", value="../../etc/passwd"), ("name", "'../../etc/passwd'")),
    "width of zero": (put("d_model", value=0), ("d_model", "got 0")),
    "width as text": (put("d_model", value="wide"), ("d_model", "'wide'")),
    "unknown site": (put("site", value="resid_last"), ("site", "'resid_last'", "resid_post")),
    "no layers": (put("layers", value=[]), ("layers: is empty",)),
    "negative layer": (put("layers", value=[-1]), ("layers[0]", "got -1")),
    "layer twice": (put("layers", value=[4, 4]), ("layers", "[4, 4]", "ascending")),
    "layers out of order": (put("layers", value=[4, 2]), ("layers", "[4, 2]", "ascending")),
    "short hash": (put("weights_sha256", value="abc"), ("weights_sha256", "'abc'")),
    "slope of zero": (put("token_slope", value=0), ("token_slope", "got 0")),
    "falling readout": (
        put("readouts", "prompt_max", "slope", value=-1.0),
        ("readouts.prompt_max.slope", "got -1.0"),
    ),
    "no readouts": (put("readouts", value={}), ("readouts: is empty",)),
    "default that is not there": (
        put("default_readout", value="prompt_mean"),
        ("default_readout", "'prompt_mean'", "['prompt_max']"),
    ),
    "unknown scope": (
        put("readouts", "prompt_max", "scope", value="turn"),
        ("readouts.prompt_max.scope", "'turn'"),
    ),
    "half life without an EMA": (
        put("readouts", "prompt_max", "aggregate", "half_life_tokens", value=4),
        ("half_life_tokens", "got 4", "'max'"),
    ),
    "EMA without a half life": (
        put("readouts", "prompt_max", "aggregate", value={"kind": "ema_max"}),
        ("half_life_tokens", "got nothing", "'ema_max'"),
    ),
    "parameter of another kind": (
        put("readouts", "prompt_max", "aggregate", "window_tokens", value=16),
        ("window_tokens", "got 16", "'max'", "want nothing", "remove it"),
    ),
    "window that is too long": (
        put(
            "readouts",
            "prompt_max",
            "aggregate",
            value={"kind": "sliding_max", "window_tokens": 257},
        ),
        ("window_tokens", "got 257", "'sliding_max'", "from 1 to 256"),
    ),
    "window of a half": (
        put(
            "readouts",
            "prompt_max",
            "aggregate",
            value={"kind": "sliding_max", "window_tokens": 1.5},
        ),
        ("aggregate.window_tokens", "got 1.5"),
    ),
    "temperature of nobody": (
        put("readouts", "prompt_max", "aggregate", value={"kind": "softmax_mean"}),
        ("temperature", "got nothing", "'softmax_mean'"),
    ),
    "prior of one": (
        put("readouts", "prompt_max", "prior", value=1.0),
        ("readouts.prompt_max.prior", "got 1.0"),
    ),
    "threshold above one": (
        put("readouts", "prompt_max", "thresholds", value=[THRESHOLD | {"value": 1.5}]),
        ("thresholds[0].value", "got 1.5"),
    ),
    "threshold whose bound misses its target": (
        put("readouts", "prompt_max", "thresholds", value=[THRESHOLD | {"fpr_upper": 0.02}]),
        ("fpr_upper", "got 0.02", "0.01"),
    ),
    "threshold given twice": (
        put("readouts", "prompt_max", "thresholds", value=[THRESHOLD, THRESHOLD]),
        ("thresholds", "once"),
    ),
    "NaN for a bias": (put("bias", value=float("nan")), ("number", "NaN", "finite")),
    "infinite offset": (put("token_offset", value=1e999), ("number", "Infinity", "finite")),
    "weights of no bytes": (put("weights_bytes", value=0), ("weights_bytes", "got 0")),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(case: str, probe_folder: Path) -> None:
    change, told = BAD_FIELDS[case]
    edit_manifest(probe_folder, change)
    message = refusal(probe_folder)
    for text in (str(probe_folder / MANIFEST), *told):
        assert text in message
    assert "; " in message.splitlines()[0]


def test_a_bad_field_is_refused_with_its_line(probe_folder: Path) -> None:
    place = probe_folder / MANIFEST
    raw = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps(raw | {"d_model": 0}, indent=2), encoding="utf-8")
    line = next(
        number
        for number, each in enumerate(place.read_text(encoding="utf-8").splitlines(), 1)
        if '"d_model"' in each
    )
    assert refusal(probe_folder).startswith(f"{place}:{line}: d_model: got 0")


def test_every_bad_field_is_told_at_once(probe_folder: Path) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["d_model"] = 0
        raw["site"] = "nowhere"
        del raw["bias"]

    edit_manifest(probe_folder, change)
    lines = refusal(probe_folder).splitlines()
    assert len(lines) == 3
    assert all(line.endswith(REMADE) for line in lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not json", "want JSON"),
        ("[1, 2]", "want a JSON object"),
        ('{"format": "pilothouse/v1", "format": "pilothouse/v1"}', "each field once"),
        ("[" * 100_000, "want JSON"),
        ("\xff", "want JSON"),
    ],
)
def test_a_manifest_that_is_no_json_object_is_refused(
    text: str, told: str, probe_folder: Path
) -> None:
    (probe_folder / MANIFEST).write_bytes(text.encode("latin-1"))
    message = refusal(probe_folder)
    assert str(probe_folder / MANIFEST) in message
    assert told in message


def test_a_manifest_that_is_too_long_is_not_read(probe_folder: Path) -> None:
    with (probe_folder / MANIFEST).open("a") as file:
        file.write(" " * (5 << 20))
    assert "size: got" in refusal(probe_folder)


def test_a_changed_threshold_breaks_the_digest(probe_folder: Path) -> None:
    edit_manifest(probe_folder, put("readouts", "prompt_max", "offset", value=9.0), sign=False)
    message = refusal(probe_folder)
    assert f"{probe_folder / MANIFEST}: digest: got" in message
    assert REMADE in message


def test_a_changed_weight_breaks_its_hash(probe_folder: Path) -> None:
    place = probe_folder / WEIGHTS
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    assert f"{place}: weights_sha256: got" in refusal(probe_folder)


def test_weights_longer_than_declared_are_refused(probe_folder: Path) -> None:
    with (probe_folder / WEIGHTS).open("ab") as file:
        file.write(b"\0")
    message = refusal(probe_folder)
    assert f"{probe_folder / WEIGHTS}: size: got" in message
    assert "at most" in message


def test_weights_shorter_than_declared_are_refused(probe_folder: Path) -> None:
    place = probe_folder / WEIGHTS
    place.write_bytes(place.read_bytes()[:-4])
    assert "weights_bytes: got" in refusal(probe_folder)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_link_out_of_the_folder_is_not_followed(
    name: str, probe_folder: Path, tmp_path: Path
) -> None:
    (probe_folder / name).rename(tmp_path / name)
    (probe_folder / name).symlink_to(tmp_path / name)
    message = refusal(probe_folder)
    assert f"{probe_folder / name}: file: got a symbolic link" in message
    assert "cp -L" in message and "--local-dir" in message


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_pipe_neither_hangs_nor_passes(name: str, probe_folder: Path) -> None:
    (probe_folder / name).unlink()
    os.mkfifo(probe_folder / name)
    assert "want a plain file" in refusal(probe_folder)


def test_a_folder_in_place_of_a_file_is_refused(probe_folder: Path) -> None:
    (probe_folder / WEIGHTS).unlink()
    (probe_folder / WEIGHTS).mkdir()
    assert "want a plain file that can be read" in refusal(probe_folder)


def test_a_header_that_looks_like_a_pickles_is_read(probe_folder: Path) -> None:
    header = {"weights": {"dtype": "F32", "shape": [1, D_MODEL], "data_offsets": [0, 32]}}
    text = json.dumps(header).encode().ljust(640)
    weights = len(text).to_bytes(8, "little") + text + GOOD.tobytes()
    assert weights.startswith(b"\x80\x02")
    replace_weights(probe_folder, weights)
    assert np.array_equal(load_probe("misuse", probe_folder).weights_LD, GOOD)


def test_a_missing_folder_points_at_the_configuration(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'}: folder: got nothing" in message
    assert "pilothouse.yaml" in message


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "folder: got a file" in refusal(tmp_path / "file")


def test_a_missing_manifest_is_named(probe_folder: Path) -> None:
    (probe_folder / MANIFEST).unlink()
    assert f"{probe_folder / MANIFEST}: file: got No such file" in refusal(probe_folder)


class Trap:
    """Unpickling it would leave a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("unpickled",))


def test_a_pickle_is_refused_and_never_run(
    probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    replace_weights(probe_folder, pickle.dumps(Trap()))
    message = refusal(probe_folder)
    assert f"{probe_folder / WEIGHTS}: content: got a pickle" in message
    assert "convert the weights to safetensors" in message
    assert not (tmp_path / "unpickled").exists()


def test_a_torch_archive_beside_the_manifest_is_not_read(probe_folder: Path) -> None:
    (probe_folder / WEIGHTS).rename(probe_folder / "weights.pt")
    message = refusal(probe_folder)
    assert "weights.pt" in message
    assert "convert the weights to safetensors" in message


GOOD = np.ones((1, D_MODEL), dtype=np.float32)
BAD_TENSORS: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...]]] = {
    "another name": ({"rows": GOOD}, ("tensors", "['rows']", "['weights']")),
    "one too many": ({"weights": GOOD, "extra": GOOD}, ("tensors", "'extra'")),
    "another width": ({"weights": GOOD[:, :-1]}, ("weights", "[1, 7]", "[1, 8]")),
    "another depth": ({"weights": np.repeat(GOOD, 2, 0)}, ("weights", "[2, 8]", "[1, 8]")),
    "flat": ({"weights": GOOD[0]}, ("weights", "[8]", "[1, 8]")),
    "float64": ({"weights": GOOD.astype(np.float64)}, ("weights", "float64", "float32")),
    "float16": ({"weights": GOOD.astype(np.float16)}, ("weights", "float16", "float32")),
    "NaN": ({"weights": GOOD * np.nan}, ("weights", "8 values that are NaN", "finite")),
    "infinity": ({"weights": GOOD * np.inf}, ("weights", "infinite", "finite")),
    "zeros": ({"weights": GOOD * 0}, ("weights", "zeros in row 0", "no effect")),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_bad_tensor_is_refused_by_name(case: str, probe_folder: Path) -> None:
    tensors, told = BAD_TENSORS[case]
    replace_weights(probe_folder, save(tensors))
    message = refusal(probe_folder)
    for text in (str(probe_folder / WEIGHTS), REMADE, *told):
        assert text in message


def test_bfloat16_is_refused(probe_folder: Path) -> None:
    header = {"weights": {"dtype": "BF16", "shape": [1, D_MODEL], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode()
    replace_weights(probe_folder, len(text).to_bytes(8, "little") + text + bytes(16))
    message = refusal(probe_folder)
    assert "want float32 safetensors" in message or "want dtype float32" in message


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 8,
        b"\xff" * 8,
        (1 << 60).to_bytes(8, "little") + b"{}",
        (10).to_bytes(8, "little") + b"0123456789",
    ],
)
def test_broken_safetensors_are_refused(data: bytes, probe_folder: Path) -> None:
    replace_weights(probe_folder, data)
    assert f"{probe_folder / WEIGHTS}: content: got" in refusal(probe_folder)


def vector_refusal(folder: Path) -> str:
    with pytest.raises(ArtefactError) as caught:
        load_vector("cheerful", folder)
    return str(caught.value)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_vector_needs_positive_residual_norms(norm: float, vector_folder: Path) -> None:
    tensors = {
        "directions": np.ones((2, D_MODEL), dtype=np.float32),
        "residual_norms": np.array([3.0, norm], dtype=np.float32),
    }
    replace_weights(vector_folder, save(tensors))
    assert f"{vector_folder / WEIGHTS}: residual_norms: got" in vector_refusal(vector_folder)


def test_a_vector_cannot_write_logits(vector_folder: Path) -> None:
    edit_manifest(vector_folder, put("site", value="logits"))
    assert "site: got 'logits', want a site that can be written" in vector_refusal(vector_folder)


def test_a_probe_under_vectors_is_told_where_it_belongs(probe_folder: Path) -> None:
    message = vector_refusal(probe_folder)
    assert "kind: got 'probe', want 'vector'" in message
    assert "under its own kind" in message
