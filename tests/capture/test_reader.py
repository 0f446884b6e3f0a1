"""Rows that were written are read back under their labels; what is not whole is not shown.

Shape suffixes: R rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pilothouse.capture.index import CapturedModel, CaptureIndex, PlaceEntry, open_folder
from pilothouse.capture.reader import CaptureReader
from pilothouse.engine.worker.shard_writer import ShardWriter, StepRows
from pilothouse.errors import ConfigError
from pilothouse.types import Tap
from tests.capture.test_order import order

WIDTHS = {Tap(0, "attn_out"): 3, Tap(0, "resid_post"): 4}


def index(rows_per_shard: int = 5, num_prompts: int = 4) -> CaptureIndex:
    made = order(["x"] * num_prompts, layers=[0], rows_per_shard=rows_per_shard, max_tokens=9)
    return CaptureIndex(
        versions={"vllm": "1"},
        model=CapturedModel(model_id="m", num_layers=4, d_model=4, dtype="float32"),
        revision="r",
        config_digest="c",
        order=made,
        places=tuple(
            PlaceEntry(name=f"{site}/{layer}", layer=layer, site=site, width=width)
            for (layer, site), width in WIDTHS.items()
        ),
    )


def value(prompt: int, position: int, width: int) -> np.ndarray:
    return np.arange(width, dtype=np.float32) + 100 * prompt + 1000 * position


def step(rows: Sequence[tuple[int, int]], border: int = 2) -> StepRows:
    """Rows of (prompt, position); tokens say where they come from."""
    return StepRows(
        labels={
            "prompt": torch.tensor([prompt for prompt, _ in rows]),
            "position": torch.tensor([position for _, position in rows]),
            "token_id": torch.tensor([7 * prompt + position for prompt, position in rows]),
            "phase": torch.tensor([int(position >= border) for _, position in rows]),
        },
        values={
            f"{site}/{layer}": torch.from_numpy(
                np.stack([value(prompt, position, width) for prompt, position in rows])
            )
            for (layer, site), width in WIDTHS.items()
        },
    )


def check(reader: CaptureReader, wanted: Sequence[tuple[int, int]]) -> None:
    for (layer, site), width in WIDTHS.items():
        activations_ND, labels = reader.layer(layer, site)
        got = list(zip(labels.prompt_R.tolist(), labels.position_R.tolist(), strict=True))
        assert got == sorted(wanted)
        want_ND = np.array([value(*each, width) for each in sorted(wanted)]).reshape(-1, width)
        assert np.array_equal(activations_ND, want_ND)
        assert labels.token_id_R.tolist() == [7 * p + t for p, t in sorted(wanted)]
        assert labels.is_output_R.tolist() == [t >= 2 for _, t in sorted(wanted)]
    seen = set()
    for rows, labels in reader:
        for place, width in WIDTHS.items():
            for row_D, prompt, position in zip(
                rows[place], labels.prompt_R, labels.position_R, strict=True
            ):
                assert np.array_equal(row_D, value(int(prompt), int(position), width))
                seen.add((int(prompt), int(position)))
    assert seen == set(wanted)


def test_rows_come_back_under_their_labels_whatever_the_files_hold(tmp_path: Path) -> None:
    for size in (1, 2, 5, 100):
        folder = tmp_path / str(size)
        folder.mkdir()
        writer = ShardWriter(folder, index(size))
        writer.append(step([(0, 0), (0, 1), (1, 0), (1, 1)]))
        writer.append(step([(0, 2), (1, 2), (1, 3), (2, 0), (2, 1)]))
        writer.end([(0, 2, 2), (1, 2, 3), (2, 2, 0)])
        writer.close(complete=False)
        reader = CaptureReader(folder)
        assert reader.prompts_done.tolist() == [0, 1, 2]
        check(reader, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)])


def test_rows_of_prompts_that_did_not_end_are_not_shown(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, index())
    writer.append(step([(0, 0), (1, 0), (0, 1)]))
    writer.end([(0, 2, 1)])
    writer.close(complete=False)
    check(CaptureReader(tmp_path), [(0, 0), (0, 1)])


def test_a_token_that_was_fed_past_the_end_of_an_answer_is_not_shown(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, index())
    writer.append(step([(0, 0), (0, 1), (0, 2), (0, 3)]))
    writer.end([(0, 2, 2)])
    writer.close(complete=False)
    check(CaptureReader(tmp_path), [(0, 0), (0, 1), (0, 2)])


def test_the_run_in_which_a_prompt_ended_counts_and_not_an_earlier_one(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, index())
    writer.append(step([(0, 0), (1, 0), (0, 1)]))
    writer.end([(0, 2, 1)])
    writer.close(complete=False)
    found = open_folder(tmp_path, index())
    again = ShardWriter(tmp_path, found.model_copy(update={"run": 1}))
    again.append(step([(1, 0), (1, 1)]))
    again.end([(1, 2, 1)])
    again.close(complete=True)
    reader = CaptureReader(tmp_path)
    assert reader.complete
    check(reader, [(0, 0), (0, 1), (1, 0), (1, 1)])


def test_what_was_not_written_whole_is_as_if_it_never_was(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, index())
    writer.append(step([(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]))
    writer.end([(0, 2, 9)])
    # Killed here: one file is complete, a row and the news that prompt 0 ended are lost; a second
    # file was renamed and not named by the index, a third was being written.
    written = (tmp_path / "rows-000000.safetensors").read_bytes()
    (tmp_path / "rows-000001.safetensors").write_bytes(written)
    (tmp_path / "rows-000002.safetensors.tmp").write_bytes(written[:100])
    check(CaptureReader(tmp_path), [])
    again = ShardWriter(tmp_path, open_folder(tmp_path, index()).model_copy(update={"run": 1}))
    again.append(step([(0, 0), (0, 1)]))
    again.end([(0, 2, 1)])
    again.close(complete=False)
    check(CaptureReader(tmp_path), [(0, 0), (0, 1)])


def test_actions_of_several_runs_are_joined(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, index())
    writer.note({"block": [3]})
    writer.note({"block": [1], "steer": [0]})
    writer.close(complete=True)
    assert CaptureReader(tmp_path).index.actions == {"block": (1, 3), "steer": (0,)}


def test_an_empty_capture_reads_as_empty(tmp_path: Path) -> None:
    ShardWriter(tmp_path, index()).close(complete=False)
    check(CaptureReader(tmp_path), [])


def test_places_and_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"index.json: cannot be read: No such file"):
        CaptureReader(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "other/1"}')
    with pytest.raises(ConfigError, match=r"index.json: format: .* want the index of a capture"):
        CaptureReader(tmp_path)
    writer = ShardWriter(tmp_path, index())
    writer.append(step([(0, 0), (0, 1)]))
    writer.end([(0, 2, 1)])
    writer.close(complete=True)
    reader = CaptureReader(tmp_path)
    with pytest.raises(ConfigError, match=r"got resid_post of layer 3, captured are attn_out of"):
        reader.layer(3)
    (tmp_path / "rows-000000.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"rows-000000.safetensors: cannot be read"):
        reader.labels()
