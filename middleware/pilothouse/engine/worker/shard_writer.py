"""Rows of activations to files: at most one file's rows are held, a file is there whole or not.

Shape suffixes: S rows of a file, R rows of a step, D width of a place, E ended prompts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pilothouse.capture.index import (
    ENDED,
    FORMAT,
    CaptureIndex,
    ShardEntry,
    save_index,
    shard_name,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LABEL_DTYPES = {
    "prompt": torch.int32,
    "position": torch.int32,
    "token_id": torch.int32,
    "phase": torch.uint8,
}
Ended = tuple[int, int, int]
"""(prompt, prompt tokens, output tokens)."""


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows of one step: `labels` and `values`, each [R] or [R, D], by the name of its tensor."""

    labels: Mapping[str, Tensor]
    values: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    def cut(self, start: int, stop: int) -> StepRows:
        """Return rows [start, stop)."""
        return replace(
            self,
            labels={name: each[start:stop] for name, each in self.labels.items()},
            values={name: each[start:stop] for name, each in self.values.items()},
        )


class ShardWriter:
    """Fills one file's worth of tensors, writes it, starts over.

    A file is written under another name, synced and renamed; then the index names it.

    Raises:
        OSError: from every method but `rows_held`, when the folder cannot be written.
    """

    def __init__(self, folder: Path, index: CaptureIndex) -> None:
        order = index.order
        self._folder = folder
        self._index = index
        self._rows = order.rows_per_shard
        self._tensors = {
            name: torch.empty(self._rows, dtype=dtype) for name, dtype in LABEL_DTYPES.items()
        } | {
            place.name: torch.empty((self._rows, place.width), dtype=DTYPES[order.dtype])
            for place in index.places
        }
        self._held = 0
        self._ended: list[Ended] = []
        save_index(folder, index)

    @property
    def rows_held(self) -> int:
        """Rows in memory that are in no file yet."""
        return self._held

    @property
    def rows_written(self) -> int:
        """Rows in complete files."""
        return sum(each.rows for each in self._index.shards)

    def append(self, rows: StepRows) -> None:
        """Take rows over; a full file is written at once."""
        first, count = 0, len(rows)
        while first < count:
            taken = min(count - first, self._rows - self._held)
            part = rows.cut(first, first + taken)
            for name, tensor in (*part.labels.items(), *part.values.items()):
                self._tensors[name][self._held : self._held + taken].copy_(tensor)
            self._held += taken
            first += taken
            if self._held == self._rows:
                self.flush()

    def end(self, ended: Sequence[Ended]) -> None:
        """All rows of these prompts have been appended."""
        self._ended += ended

    def note(self, actions: Mapping[str, Sequence[int]]) -> None:
        """Prompts in which a policy did something."""
        known = dict(self._index.actions)
        for action, prompts in actions.items():
            known[action] = tuple(sorted({*known.get(action, ()), *prompts}))
        self._index = self._index.model_copy(update={"actions": known})

    def flush(self) -> None:
        """Write what is held, however little; nothing where nothing is."""
        if not self._held and not self._ended:
            return
        name = shard_name(len(self._index.shards))
        self._write(name)
        entry = ShardEntry(
            file=name, rows=self._held, prompts_ended=len(self._ended), run=self._index.run
        )
        self._index = self._index.model_copy(update={"shards": (*self._index.shards, entry)})
        self._held, self._ended = 0, []
        save_index(self._folder, self._index)

    def close(self, *, complete: bool) -> None:
        """Write what is held, and say whether every prompt has its rows."""
        self.flush()
        self._index = self._index.model_copy(update={"complete": complete})
        save_index(self._folder, self._index)

    def _write(self, name: str) -> None:
        tensors = {key: each[: self._held] for key, each in self._tensors.items()}
        tensors[ENDED] = torch.tensor(self._ended, dtype=torch.int32).reshape(-1, 3)
        temporary = self._folder / f"{name}.tmp"
        save_file(tensors, temporary, metadata={"format": FORMAT})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)
