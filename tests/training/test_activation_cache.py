"""The cache of activations: whole files, keys that keep models apart, runs that share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.errors import ConfigError
from pilothouse.training.activation_cache import SUFFIX, ActivationCache

KEY = {"model": "a", "layers": (1, 2)}


def rows_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2, 3)).astype(np.float32)


def test_rows_come_back_bit_by_bit_in_any_order(tmp_path: Path) -> None:
    one = ActivationCache(tmp_path, KEY)
    given = {"x": rows_of(1, 4), "y": rows_of(2, 1), "z": rows_of(3, 2)}
    one.add(["x", "y"], [given["x"], given["y"]])
    one.add(["z"], [given["z"]])
    again = ActivationCache(tmp_path, KEY)
    assert again.missing(["q", "x", "q", "z"]) == ["q"]
    for name, rows in zip("zxyx", again.rows(list("zxyx")), strict=True):
        assert np.array_equal(rows, given[name])


def test_another_key_has_nothing_of_it(tmp_path: Path) -> None:
    ActivationCache(tmp_path, KEY).add(["x"], [rows_of(1, 1)])
    for other in ({**KEY, "model": "b"}, {**KEY, "layers": (1, 3)}, {**KEY, "dtype": "bfloat16"}):
        assert ActivationCache(tmp_path, other).missing(["x"]) == ["x"]


def test_a_damaged_file_is_read_again_and_replaced(tmp_path: Path) -> None:
    cache = ActivationCache(tmp_path, KEY)
    cache.add(["x", "y"], [rows_of(1, 1), rows_of(2, 1)])
    [file] = cache.folder.glob(f"*{SUFFIX}")
    whole = file.read_bytes()
    for damaged in (whole[:40], whole[:-4], b"", b"\x00" * 100):
        file.write_bytes(damaged)
        again = ActivationCache(tmp_path, KEY)
        assert again.missing(["x", "y"]) == ["x", "y"]
    again.add(["x", "y"], [rows_of(1, 1), rows_of(2, 1)])
    [rows_x, rows_y] = ActivationCache(tmp_path, KEY).rows(["x", "y"])
    assert np.array_equal(rows_x, rows_of(1, 1)) and np.array_equal(rows_y, rows_of(2, 1))
    assert [*cache.folder.glob(f"*{SUFFIX}")] == [file]


def test_two_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    one, other = ActivationCache(tmp_path, KEY), ActivationCache(tmp_path, KEY)
    one.add(["x"], [rows_of(1, 1)])
    other.add(["x", "y"], [rows_of(1, 1), rows_of(2, 1)])
    for cache in (one, other, ActivationCache(tmp_path, KEY)):
        assert np.array_equal(cache.rows(["x"])[0], rows_of(1, 1))
    assert ActivationCache(tmp_path, KEY).missing(["x", "y"]) == []
    assert not list(one.folder.glob(".*"))


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="name another with --cache"):
        ActivationCache(tmp_path / "taken", KEY)
