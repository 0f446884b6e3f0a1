"""Probes with heads on disk: what is written is read, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pilothouse.artifacts.probe import Probe, build_probe, load_probe, save_probe
from pilothouse.errors import ArtefactError
from pilothouse.head import Head
from tests.support.artifacts.folders import D_MODEL, edit_manifest, probe, readout, replace_weights

LAYERS = (2, 5)
HEADS = (
    Head(kind="attention", heads=3),
    Head(kind="efficient_probing", heads=2, values_per_head=4),
    Head(kind="multimax", heads=2),
    Head(kind="rolling_attention", heads=2, window=4, order="sum_then_max"),
    Head(kind="mlp", hidden_width=5, normaliser="layer_norm"),
    Head(kind="attention", heads=2, hidden_width=5),
    Head(kind="mahalanobis", rank=2),
)
each_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.model_dump_json())


def arrays_of(head: Head) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in head.shapes(layers=len(LAYERS), width=D_MODEL).items()
    }


def headed(head: Head, **changes: Any) -> Probe:
    fields: dict[str, Any] = {
        "model_id": "demo",
        "layers": LAYERS,
        "head": head,
        "arrays": arrays_of(head),
        "bias": -0.5,
        "token_slope": 1.0,
        "token_offset": 0.0,
        "readouts": {"prompt": readout()},
        "default_readout": "prompt",
        "created_by": "a test",
    }
    return build_probe("headed", **(fields | changes))


@each_head
def test_a_head_is_the_same_after_the_disk(head: Head, tmp_path: Path) -> None:
    made = headed(head)
    save_probe(made, tmp_path)
    loaded = load_probe("headed", tmp_path)
    assert loaded.head == head
    assert loaded.digest == made.digest
    assert loaded.d_model == D_MODEL
    assert loaded.tensors.keys() == made.tensors.keys()
    for name, tensor in loaded.tensors.items():
        assert np.array_equal(tensor, made.tensors[name])
        with pytest.raises(ValueError, match="read-only"):
            tensor[0] = 1.0


def test_a_linear_probes_manifest_says_nothing_of_a_head(tmp_path: Path) -> None:
    save_probe(probe(), tmp_path)
    assert "head" not in json.loads((tmp_path / "manifest.json").read_text())


def test_a_manifest_may_say_that_its_head_is_linear(tmp_path: Path) -> None:
    save_probe(probe(), tmp_path)
    edit_manifest(tmp_path, lambda raw: raw.update(head={"kind": "linear"}))
    loaded = load_probe("misuse", tmp_path)
    assert loaded.head == Head()
    save_probe(loaded, tmp_path / "again")
    assert load_probe("misuse", tmp_path / "again").digest == loaded.digest


@each_head
def test_weights_that_are_not_the_heads_are_refused_by_name(head: Head, tmp_path: Path) -> None:
    for name in head.tensors:
        arrays = arrays_of(head)
        bad = {
            "tensors": {key: each for key, each in arrays.items() if key != name},
            "shape": arrays | {name: arrays[name][:1]},
            "NaN": arrays | {name: np.full_like(arrays[name], np.nan)},
            "dtype": arrays | {name: arrays[name].astype(np.float16)},
        }
        for said, tensors in bad.items():
            save_probe(headed(head), tmp_path)
            replace_weights(tmp_path, save(tensors))
            with pytest.raises(ArtefactError, match=said):
                load_probe("headed", tmp_path)


@each_head
@pytest.mark.parametrize("value", [0, -1, 1 << 40, "many", None, [3]])
def test_a_size_out_of_range_is_refused(head: Head, value: object, tmp_path: Path) -> None:
    for field in head.traits.fields:
        save_probe(headed(head), tmp_path)
        edit_manifest(tmp_path, lambda raw, field=field: raw["head"].update({field: value}))
        with pytest.raises(ArtefactError, match="head"):
            load_probe("headed", tmp_path)


@pytest.mark.parametrize(
    "head", [7, "attention", {}, {"kind": "mixture"}, {"kind": "linear", "heads": 2}, []]
)
def test_a_head_that_is_none_is_refused(head: object, tmp_path: Path) -> None:
    save_probe(probe(), tmp_path)
    edit_manifest(tmp_path, lambda raw: raw.update(head=head))
    if head == {}:
        assert load_probe("misuse", tmp_path).head == Head()
        return
    with pytest.raises(ArtefactError, match="head"):
        load_probe("misuse", tmp_path)


def test_linear_rows_under_another_head_are_refused(tmp_path: Path) -> None:
    save_probe(probe(), tmp_path)
    edit_manifest(tmp_path, lambda raw: raw.update(head={"kind": "attention", "heads": 1}))
    with pytest.raises(ArtefactError, match=r"\['weights'\], want exactly \['queries', 'values'\]"):
        load_probe("misuse", tmp_path)
