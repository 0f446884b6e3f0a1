"""Captured activations of many sequences, with their labels.

Shapes: N sequences, T tokens of all sequences in a row, L layers, D = d_model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pilothouse.errors import ConfigError
from pilothouse.types import Scope

Hidden = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One captured sequence: activations of the prompt and of the answer as far as it was fed.

    `group` must be shared by whatever must not be split (one template, one conversation);
    `family` is what leave-one-family-out leaves out; `text` is what a text baseline may read.
    """

    hidden_TLD: Hidden
    prompt_tokens: int
    label: bool
    group: str
    family: str
    text: str
    mean_log_probability: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Sequences end to end: sequence n has tokens starts[n] to starts[n + 1]."""

    layers: tuple[int, ...]
    hidden_LTD: Hidden
    starts: NDArray[np.int64]
    prompt_tokens_N: NDArray[np.int64]
    labels_N: NDArray[np.bool_]
    groups_N: NDArray[np.str_]
    families_N: NDArray[np.str_]
    texts_N: NDArray[Any]
    mean_log_probabilities_N: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.labels_N.size)

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    def select(self, mask_N: ArrayLike) -> Dataset:
        """The sequences under a mask."""
        rows = np.flatnonzero(np.asarray(mask_N, bool))
        return self._cut(rows, self.starts[rows], self.starts[rows + 1], self.prompt_tokens_N[rows])

    def scoped(self, scope: Scope) -> Dataset:
        """The tokens that a scope covers; sequences without any are left out."""
        first, end = self.starts[:-1], self.starts[1:]
        border = first + self.prompt_tokens_N
        if scope == "prompt":
            end = border
        elif scope == "output":
            first = border
        else:
            first = np.maximum(border - 1, first)
        rows = np.flatnonzero(end > first)
        prompt_tokens = np.clip(border - first, 0, end - first)
        return self._cut(rows, first[rows], end[rows], prompt_tokens[rows])

    def with_labels(self, labels_N: ArrayLike) -> Dataset:
        """The same activations under other labels."""
        labels = np.asarray(labels_N).astype(bool)
        if labels.shape != self.labels_N.shape:
            raise ConfigError(f"labels: got {labels.shape}, want {self.labels_N.shape}")
        return replace(self, labels_N=labels)

    def with_layers(self, layers: tuple[int, ...]) -> Dataset:
        """The same sequences with the activations of some layers alone."""
        self._refuse_missing(layers)
        rows = [self.layers.index(each) for each in layers]
        return replace(self, layers=layers, hidden_LTD=self.hidden_LTD[rows])

    def hidden_TD(self, layer: int) -> Hidden:
        """Activations of every token at a layer, without a copy.

        Raises:
            ConfigError: the layer was not captured.
        """
        self._refuse_missing((layer,))
        hidden_TD: Hidden = self.hidden_LTD[self.layers.index(layer)]
        return hidden_TD

    def _refuse_missing(self, layers: tuple[int, ...]) -> None:
        missing = [each for each in layers if each not in self.layers]
        if missing:
            raise ConfigError(f"layers: got {missing}, want any of {list(self.layers)}")

    def _cut(
        self,
        rows: NDArray[np.int64],
        first: NDArray[np.int64],
        end: NDArray[np.int64],
        prompt_tokens: NDArray[np.int64],
    ) -> Dataset:
        lengths = end - first
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = np.repeat(first - starts[:-1], lengths) + np.arange(starts[-1])
        return Dataset(
            layers=self.layers,
            hidden_LTD=self.hidden_LTD[:, tokens],
            starts=starts,
            prompt_tokens_N=prompt_tokens.astype(np.int64),
            labels_N=self.labels_N[rows],
            groups_N=self.groups_N[rows],
            families_N=self.families_N[rows],
            texts_N=self.texts_N[rows],
            mean_log_probabilities_N=self.mean_log_probabilities_N[rows],
        )


def dataset_of(examples: Iterable[Example], layers: tuple[int, ...]) -> Dataset:
    """The examples end to end.

    Raises:
        ConfigError: no examples, or one whose activations or prompt length do not fit.
    """
    rows = list(examples)
    if not rows:
        raise ConfigError("dataset: got no examples, want at least one")
    shape = (len(layers), rows[0].hidden_TLD.shape[-1])
    for index, each in enumerate(rows):
        if each.hidden_TLD.ndim != 3 or each.hidden_TLD.shape[1:] != shape:
            raise ConfigError(
                f"dataset: example {index}: got activations {each.hidden_TLD.shape}, want "
                f"(tokens, {shape[0]}, {shape[1]})"
            )
        if not 0 <= each.prompt_tokens <= len(each.hidden_TLD):
            raise ConfigError(
                f"dataset: example {index}: got {each.prompt_tokens} prompt tokens of "
                f"{len(each.hidden_TLD)}, want from 0 to all of them"
            )
    lengths = [len(each.hidden_TLD) for each in rows]
    texts = np.empty(len(rows), dtype=object)
    texts[:] = [each.text for each in rows]
    return Dataset(
        layers=layers,
        hidden_LTD=_layer_major(rows),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompt_tokens_N=np.array([each.prompt_tokens for each in rows], dtype=np.int64),
        labels_N=np.array([each.label for each in rows], dtype=bool),
        groups_N=np.array([each.group for each in rows], dtype=np.str_),
        families_N=np.array([each.family for each in rows], dtype=np.str_),
        texts_N=texts,
        mean_log_probabilities_N=np.array([each.mean_log_probability for each in rows]),
    )


def _layer_major(rows: list[Example]) -> Hidden:
    depth = rows[0].hidden_TLD.shape[1]
    layers = [
        np.concatenate([each.hidden_TLD[:, layer] for each in rows]) for layer in range(depth)
    ]
    return np.stack(layers).astype(np.float32, copy=False)
