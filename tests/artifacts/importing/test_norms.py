"""Mean lengths for an import: typed, from a file, or measured by a capture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.importing.vector_import import residual_norms
from pilothouse.engine.worker.shard_writer import ShardWriter
from pilothouse.errors import ConfigError
from tests.capture.test_reader import index, step, value

ROWS = [(0, 0), (0, 1), (1, 0)]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    writer = ShardWriter(tmp_path, index(rows_per_shard=2))
    writer.append(step(ROWS))
    writer.end([(0, 2, 0), (1, 1, 0)])
    writer.close(complete=False)
    return tmp_path


def test_a_capture_gives_the_mean_length_of_its_rows(capture: Path) -> None:
    wanted = np.mean([np.linalg.norm(value(*row, 4)) for row in ROWS])
    assert residual_norms(str(capture), [0], "resid_post") == pytest.approx([wanted])


def test_a_capture_of_another_place_is_refused(capture: Path) -> None:
    with pytest.raises(ConfigError, match="mlp_out of layer 0"):
        residual_norms(str(capture), [0], "mlp_out")


def test_numbers_are_for_the_layers_ascending() -> None:
    assert residual_norms("4,5", [7, 2], "resid_post").tolist() == [4, 5]


def test_a_file_names_its_layers(tmp_path: Path) -> None:
    (tmp_path / "norms.json").write_text(json.dumps({"7": 5, "2": 4.0, "9": 1}))
    found = residual_norms(str(tmp_path / "norms.json"), [7, 2], "resid_post")
    assert found.tolist() == [4, 5]


@pytest.mark.parametrize("text", ['{"2": 4.0}', '{"2": 4.0, "7": "5"}', '{"2": 4.0, "7": true}'])
def test_a_file_without_a_number_for_a_layer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "norms.json").write_text(text)
    with pytest.raises(ConfigError, match=r"norms\.json: 7: got .*; name each layer"):
        residual_norms(str(tmp_path / "norms.json"), [2, 7], "resid_post")
