"""Captures the stream behind one layer at every row, in float16 on disk.

The forward is transformers', cut off behind the layer: half the work of the served engine's, which
computes answers too. An interrupted run goes on behind the last part that was written.

An SAE's codes of the rows, nearly all of which are 0, are a sparse matrix.

Shape suffixes: B lines of a part, T tokens, D width of the stream, R rows, M features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.demo.result_cache import digest_of_parts
from pilothouse.demo.sae.lines import Bools, Line, Rows
from pilothouse.demo.sae.recipe import OUTLIER
from pilothouse.edits.sae_codes import encode
from pilothouse.progress import Phase

LINES_AT_ONCE: Final = 4
ROWS_AT_ONCE: Final = 8192
DONE_FILE: Final = "done.json"
Halves = NDArray[np.float16]


def captured(model: Path, layer: int, lines: Sequence[Line], folder: Path, phase: Phase) -> Halves:
    """Return hidden_RD of all lines' rows, mapped from a file in the folder."""
    digest = digest_of_parts(model.name, layer, [(each.ids, each.first) for each in lines])
    place = folder / f"stream-{digest[:16]}.f16"
    marks = folder / f"stream-{digest[:16]}-{DONE_FILE}"
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.cumsum([0, *(each.rows for each in lines)])
    # Long ones first: what is left takes less than what was done.
    order = sorted(range(len(lines)), key=lambda at: -len(lines[at].ids))
    parts = [order[at : at + LINES_AT_ONCE] for at in range(0, len(order), LINES_AT_ONCE)]
    done = json.loads(marks.read_text()) if marks.is_file() and place.is_file() else 0
    half: Any = None
    advance = phase(f"stream behind layer {layer}, tokens", int(starts[-1]))
    for number, part in enumerate(parts):
        rows = sum(lines[at].rows for at in part)
        if number >= done:
            half = half or _Half(model, layer)
            hidden = half.hidden([lines[at].ids for at in part])
            mode: Literal["r+", "w+"] = "r+" if place.is_file() else "w+"
            written: Any = np.memmap(place, np.float16, mode, shape=(int(starts[-1]), half.width))
            for at, hidden_TD in zip(part, hidden, strict=True):
                written[starts[at] : starts[at + 1]] = hidden_TD[lines[at].first :]
            written.flush()
            marks.write_text(json.dumps(number + 1))
        advance(rows)
    width = place.stat().st_size // 2 // int(starts[-1])
    return np.memmap(place, np.float16, "r", shape=(int(starts[-1]), width))


class _Half:
    """The model's forward up to a layer."""

    def __init__(self, model: Path, layer: int) -> None:
        import torch
        from transformers import AutoModel

        self._model: Any = AutoModel.from_pretrained(model, dtype=torch.float32)
        self._model.config.num_hidden_layers = layer + 1
        self._heard: Any = None
        self._model.layers[layer].register_forward_hook(self._hear)
        self.width = int(self._model.config.hidden_size)

    def _hear(self, _module: object, _given: object, hidden_BTD: Any) -> None:
        self._heard = hidden_BTD

    def hidden(self, batch: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
        """Return each line's stream; what is filled up behind a line is seen by no token of it."""
        import torch

        longest = max(map(len, batch))
        ids_BT = torch.tensor([[*each, *[0] * (longest - len(each))] for each in batch])
        with torch.inference_mode():
            self._model(ids_BT, use_cache=False)
        return [
            hidden_TD[: len(ids)].numpy() for ids, hidden_TD in zip(batch, self._heard, strict=True)
        ]


def lengths_of(hidden_RD: Halves) -> NDArray[np.float32]:
    """Return the length of each row, worked out part by part."""
    parts = np.array_split(hidden_RD, max(1, len(hidden_RD) // ROWS_AT_ONCE))
    return np.concatenate([np.linalg.norm(each.astype(np.float32), axis=1) for each in parts])


def is_ordinary(hidden_RD: Halves) -> Bools:
    """Say of each row whether its stream is no longer than `OUTLIER` times the median."""
    lengths_R = lengths_of(hidden_RD)
    found: Bools = lengths_R <= OUTLIER * np.median(lengths_R)
    return found


class Learnt:
    """The rows of ordinary length, which the SAE is to know: training and held out."""

    def __init__(self, hidden_RD: Halves, lines: Sequence[Line]) -> None:
        ordinary_R = is_ordinary(hidden_RD)
        self.lines = lines
        self.left_out = int((~ordinary_R).sum())
        self.hidden_RD: Halves = np.asarray(hidden_RD)[ordinary_R]
        self.rows = Rows.of(lines).at(ordinary_R)
        training_R = ~self.rows.is_held_out_R
        self.average_norm = float(lengths_of(self.hidden_RD)[training_R].mean())


PART: Final = 2048


def codes_of(sae: Sae, hidden_RD: Halves, phase: Phase) -> Any:
    """Return codes_RM, scipy's compressed columns: what is asked for is a feature's codes."""
    from scipy.sparse import csr_array, vstack

    advance = phase("codes, tokens", len(hidden_RD))
    parts = []
    for start in range(0, len(hidden_RD), PART):
        part_RD = np.asarray(hidden_RD[start : start + PART], np.float64)
        parts.append(csr_array(encode(sae, part_RD).astype(np.float32)))
        advance(len(part_RD))
    return vstack(parts).tocsc()
