"""Vectors survive the disk and cannot be changed in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.vector import build_vector, load_vector, save_vector
from pilothouse.errors import ArtefactError
from tests.support.artifacts.folders import D_MODEL, vector


def test_a_vector_is_the_same_after_the_disk(tmp_path: Path) -> None:
    made = vector()
    save_vector(made, tmp_path)
    loaded = load_vector("cheerful", tmp_path)
    assert np.array_equal(loaded.directions_LD, made.directions_LD)
    assert np.array_equal(loaded.residual_norms_L, made.residual_norms_L)
    assert (loaded.layers, loaded.site, loaded.d_model) == ((2, 4), "resid_post", D_MODEL)
    assert loaded.manifest == made.manifest
    assert loaded.digest == made.digest


def test_a_vector_at_a_projection_has_a_width_of_its_own(tmp_path: Path) -> None:
    numbers = {"directions_LD": np.ones((1, 24), np.float32), "residual_norms_L": np.ones(1)}
    about = {"model_id": "demo", "layers": (2,), "created_by": "a test", "site": "mlp_neurons"}
    made = build_vector("neurons", **numbers, **about, d_model=D_MODEL)
    save_vector(made, tmp_path)
    loaded = load_vector("neurons", tmp_path)
    assert (loaded.d_model, loaded.width, loaded.digest) == (D_MODEL, 24, made.digest)
    with pytest.raises(ArtefactError, match="mlp_neurons: d_model: got None, want the width"):
        build_vector("neurons", **numbers, **about)


def test_the_operators_name_changes_no_digest(tmp_path: Path) -> None:
    save_vector(vector(), tmp_path)
    one, other = load_vector("cheerful", tmp_path), load_vector("happy", tmp_path)
    assert (one.name, other.name) == ("cheerful", "happy")
    assert one.digest == other.digest


def test_any_number_changes_the_digest() -> None:
    made = vector()
    for index in np.ndindex(made.directions_LD.shape):
        directions = made.directions_LD.copy()
        directions[index] = np.nextafter(directions[index], np.float32(np.inf))
        other = build_vector(
            "cheerful",
            model_id="demo",
            layers=made.layers,
            directions_LD=directions,
            residual_norms_L=made.residual_norms_L,
            created_by="a test",
        )
        assert other.digest != made.digest


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        save_vector(vector(), tmp_path / folder)
    for name in ("manifest.json", "weights.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_arrays_cannot_be_written(tmp_path: Path) -> None:
    save_vector(vector(), tmp_path)
    for each in (vector(), load_vector("cheerful", tmp_path)):
        with pytest.raises(ValueError, match="read-only"):
            each.directions_LD[0, 0] = 1.0
        with pytest.raises(ValueError, match="read-only"):
            each.residual_norms_L[0] = 1.0


def test_directions_and_norms_are_found_by_layer() -> None:
    made = vector(layers=(3, 7))
    assert np.array_equal(made.direction_D(7), made.directions_LD[1])
    assert made.residual_norm(3) == pytest.approx(float(made.residual_norms_L[0]))
    with pytest.raises(KeyError):
        made.direction_D(4)


def test_building_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ArtefactError, match=r"directions: got shape \[1, 8\], want shape \[2, 8\]"):
        build_vector(
            "bad",
            model_id="demo",
            layers=(1, 2),
            directions_LD=np.ones((1, 8), np.float32),
            residual_norms_L=np.ones(2, np.float32),
            created_by="a test",
        )
