"""Measures what the SAE explains of held-out text, and what it costs the model.

Shape suffixes: R rows, N lines, D width of the stream, T tokens of a line, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import Interval
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.demo.sae.lines import Line
from pilothouse.demo.sae.stream import Halves, Learnt
from pilothouse.edits.sae_codes import decode, encode
from pilothouse.progress import Phase

LOSS_LINES: Final = 10
PART: Final = 2048
ROUNDS: Final = 500
Floats = NDArray[np.float64]


class Explained(NamedTuple):
    """For each line its rows, the features on in them, and two sums of squares."""

    table_N4: Floats
    """Rows, features on, what is left over, what varies about the mean."""
    fired_M: NDArray[np.int64]
    mean_D: Floats

    def l0(self, seed: int) -> Interval:
        """Return the mean number of features that are on at a token."""
        return _ratio(self.table_N4[:, [1, 0]], seed)

    def explained_variance(self, seed: int) -> Interval:
        """Return 1 less the share of the variance that is left over."""
        left = _ratio(self.table_N4[:, [2, 3]], seed)
        return Interval(estimate=1 - left.estimate, low=1 - left.high, high=1 - left.low)


class Losses(NamedTuple):
    """For each line the targets, and their summed losses in nats under three streams."""

    table_N4: Floats
    """Targets; loss with the stream, its reconstruction, and its mean in its place."""

    @property
    def per_token(self) -> tuple[float, float, float]:
        """The three losses in nats a token."""
        targets, *losses = self.table_N4.sum(axis=0)
        plain, built, mean = (float(each / targets) for each in losses)
        return plain, built, mean

    def recovered(self, seed: int) -> Interval:
        """Return 1 where the reconstruction costs nothing, 0 where as much as the mean does."""
        _, plain_N, built_N, mean_N = self.table_N4.T
        return _ratio(np.stack([mean_N - built_N, mean_N - plain_N], axis=1), seed)


def explained(sae: Sae, learnt: Learnt, phase: Phase) -> Explained:
    """Encode and decode every held-out row."""
    held_R = learnt.rows.is_held_out_R
    hidden_RD, line_R = learnt.hidden_RD[held_R], learnt.rows.line_R[held_R]
    mean_D = hidden_RD.astype(np.float64).mean(axis=0)
    _, line_R = np.unique(line_R, return_inverse=True)
    table_N4 = np.zeros((line_R.max() + 1, 4))
    fired_M = np.zeros(sae.num_features, np.int64)
    advance = phase("reconstruction, tokens", len(hidden_RD))
    for start in range(0, len(hidden_RD), PART):
        part_RD = hidden_RD[start : start + PART].astype(np.float64)
        codes_RM = encode(sae, part_RD)
        left_RD = part_RD - decode(sae, codes_RM, part_RD)
        fired_M += np.count_nonzero(codes_RM, axis=0)
        figures_R4 = np.stack(
            [
                np.ones(len(part_RD)),
                np.count_nonzero(codes_RM, axis=1).astype(np.float64),
                (left_RD**2).sum(axis=1),
                ((part_RD - mean_D) ** 2).sum(axis=1),
            ],
            axis=1,
        )
        np.add.at(table_N4, line_R[start : start + PART], figures_R4)
        advance(len(part_RD))
    return Explained(table_N4, fired_M, mean_D)


def losses(
    sae: Sae, learnt: Learnt, mean_D: Floats, model: Path, phase: Phase, *, most: int = LOSS_LINES
) -> Losses:
    """Run the first held-out lines with the stream, its reconstruction and its mean.

    The rows that the SAE is not to know are left as they are each time.
    """
    swap = _Swapped(model, sae.tap.layer)
    rows = learnt.rows
    chosen = np.unique(rows.line_R[rows.is_held_out_R])
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(int)]
    advance = phase("loss recovered, texts", len(chosen))
    table = []
    for at in chosen:
        line, own_R = learnt.lines[at], rows.line_R == at
        hidden_RD: Halves = learnt.hidden_RD[own_R]
        exact_RD = hidden_RD.astype(np.float64)
        built_RD = decode(sae, encode(sae, exact_RD), exact_RD)
        instead = (None, built_RD, np.broadcast_to(mean_D, exact_RD.shape))
        position_R = rows.position_R[own_R]
        said = [swap.loss(line, position_R, each) for each in instead]
        table.append([len(line.ids) - line.first - 1, *said])
        advance(1)
    return Losses(np.array(table, np.float64))


class _Swapped:
    """The whole model, with another stream at some positions behind a layer."""

    def __init__(self, model: Path, layer: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._instead: tuple[Any, Any] | None = None
        self._model.model.layers[layer].register_forward_hook(self._swap)

    def _swap(self, _module: object, _given: object, hidden_BTD: Any) -> Any:
        if self._instead is None:
            return None
        position_R, instead_RD = self._instead
        hidden_BTD = hidden_BTD.clone()
        hidden_BTD[0, position_R] = instead_RD
        return hidden_BTD

    def loss(self, line: Line, position_R: NDArray[np.int64], instead_RD: Floats | None) -> float:
        """Return the summed loss of the tokens behind the first that the SAE is to know."""
        import torch
        from torch.nn.functional import cross_entropy

        self._instead = (
            None
            if instead_RD is None
            else (
                torch.from_numpy(position_R),
                torch.from_numpy(instead_RD.astype(np.float32)),
            )
        )
        ids_T = torch.tensor(line.ids)
        with torch.inference_mode():
            logits_TV = self._model(ids_T[None], use_cache=False).logits[0]
            told = cross_entropy(
                logits_TV[line.first : -1], ids_T[line.first + 1 :], reduction="sum"
            )
        return float(told)


def _ratio(pairs_N2: Floats, seed: int) -> Interval:
    """Return a ratio of sums with its 95% interval over resamples of lines."""
    draw = np.random.default_rng(seed)
    drawn = draw.integers(0, len(pairs_N2), (ROUNDS, len(pairs_N2)))
    sums = pairs_N2[drawn].sum(axis=1)
    above, below = pairs_N2.sum(axis=0)
    estimate = float(above / below)
    low, high = (float(each) for each in np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975]))
    return Interval(estimate=estimate, low=min(low, estimate), high=max(high, estimate))
