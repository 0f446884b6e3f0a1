"""A capture on disk: rows and their labels, file by file or a layer at once.

Only rows of prompts that were captured whole are shown.

Shape suffixes: R rows of a file, N rows of the capture, D width of a place, E ended prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from pilothouse.capture.index import (
    ENDED,
    LABELS,
    OUTPUT_PHASE,
    CaptureIndex,
    ShardEntry,
    load_index,
    place_name,
)
from pilothouse.errors import ConfigError
from pilothouse.types import BoolArray, FloatArray, IntArray, Site, Tap

NEVER = -1


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Whose activation each row is: prompt number, position in the sequence, the token fed there.

    `is_output_R` tells sampled tokens from the prompt's.
    """

    prompt_R: IntArray
    position_R: IntArray
    token_id_R: IntArray
    is_output_R: BoolArray

    def __len__(self) -> int:
        return len(self.prompt_R)

    def select(self, rows: Any) -> Labels:
        """Some of the rows, by mask, slice or number."""
        return Labels(
            self.prompt_R[rows],
            self.position_R[rows],
            self.token_id_R[rows],
            self.is_output_R[rows],
        )


class CaptureReader:
    """What `LLM.capture` wrote to a folder. Needs no engine.

    Iterating gives `(activations, labels)` of each file, `activations[layer, site]` float32 [R, D].

    Raises:
        ConfigError: the folder holds no capture.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.index: CaptureIndex = load_index(self.folder)
        count = self.index.order.num_prompts
        self._run_of_prompt = np.full(count, NEVER, np.int64)
        self._fed = np.zeros(count, np.int64)
        for shard in self.index.shards:
            ended_E3 = self._arrays(shard, [ENDED])[ENDED]
            prompts, output = ended_E3[:, 0], ended_E3[:, 2]
            self._run_of_prompt[prompts] = shard.run
            self._fed[prompts] = ended_E3[:, 1] + np.maximum(output - 1, 0)

    @property
    def places(self) -> tuple[Tap, ...]:
        """What was captured, in the order in which a token passes it."""
        return tuple(Tap(each.layer, each.site) for each in self.index.places)

    @property
    def prompts_done(self) -> IntArray:
        """Numbers of the prompts that were captured whole."""
        return np.flatnonzero(self._run_of_prompt != NEVER)

    @property
    def complete(self) -> bool:
        """Every prompt is there."""
        return self.index.complete

    def __iter__(self) -> Iterator[tuple[Mapping[Tap, FloatArray], Labels]]:
        for shard in self.index.shards:
            labels = self._labels(shard)
            rows = self._shown(shard, labels)
            names = {place: place_name(place) for place in self.places}
            arrays = self._arrays(shard, list(names.values()))
            if len(rows):
                shown = {place: arrays[name][rows] for place, name in names.items()}
                yield shown, labels.select(rows)

    def rows(self, layer: int, site: Site = "resid_post") -> Iterator[tuple[FloatArray, Labels]]:
        """`(activations_RD, labels)` of each file at one place; reads no other place's numbers.

        Raises:
            ConfigError: the place was not captured.
        """
        name = self._name(layer, site)
        for shard in self.index.shards:
            labels = self._labels(shard)
            rows = self._shown(shard, labels)
            if len(rows):
                yield self._arrays(shard, [name])[name][rows], labels.select(rows)

    def layer(self, layer: int, site: Site = "resid_post") -> tuple[FloatArray, Labels]:
        """All of one place in memory, `(activations_ND, labels)`, by prompt and position.

        Raises:
            ConfigError: the place was not captured.
        """
        name = self._name(layer, site)
        width = next(each.width for each in self.index.places if each.name == name)
        labels = self.labels()
        order_N = np.lexsort((labels.position_R, labels.prompt_R))
        place_N = np.empty(len(order_N), np.int64)
        place_N[order_N] = np.arange(len(order_N))
        activations_ND = np.empty((len(order_N), width), np.float32)
        first = 0
        for rows_RD, _ in self.rows(layer, site):
            activations_ND[place_N[first : first + len(rows_RD)]] = rows_RD
            first += len(rows_RD)
        return activations_ND, labels.select(order_N)

    def labels(self) -> Labels:
        """The labels of all rows, in the order in which iterating gives them."""
        parts = []
        for shard in self.index.shards:
            labels = self._labels(shard)
            parts.append(labels.select(self._shown(shard, labels)))
        if not parts:
            empty = np.zeros(0, np.int32)
            return Labels(empty, empty, empty, np.zeros(0, np.bool_))
        return Labels(
            np.concatenate([each.prompt_R for each in parts]),
            np.concatenate([each.position_R for each in parts]),
            np.concatenate([each.token_id_R for each in parts]),
            np.concatenate([each.is_output_R for each in parts]),
        )

    def _name(self, layer: int, site: Site) -> str:
        if Tap(layer, site) not in self.places:
            have = ", ".join(f"{place.site} of layer {place.layer}" for place in self.places)
            raise ConfigError(f"{self.folder}: got {site} of layer {layer}, captured are {have}")
        return place_name(Tap(layer, site))

    def _shown(self, shard: ShardEntry, labels: Labels) -> IntArray:
        """Rows of prompts that ended in the shard's run, at positions that count as fed."""
        mine_R = self._run_of_prompt[labels.prompt_R] == shard.run
        return np.flatnonzero(mine_R & (labels.position_R < self._fed[labels.prompt_R]))

    def _labels(self, shard: ShardEntry) -> Labels:
        prompt_R, position_R, token_id_R, phase_R = self._arrays(shard, LABELS).values()
        return Labels(prompt_R, position_R, token_id_R, phase_R == OUTPUT_PHASE)

    def _arrays(self, shard: ShardEntry, names: Any) -> dict[str, Any]:
        path = self.folder / shard.file
        try:
            # Through torch, since numpy has no bfloat16.
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in names}
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error}; the index names it as complete"
            ) from error
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
            for name, tensor in tensors.items()
        }
