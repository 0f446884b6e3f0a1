"""What a tap reads: rows of the stream, codes of SAEs that are resident there, and hidden layers.

A hidden layer is of one probe's head; rows of it are read.

Shape suffixes: T tokens, D width of the tap on this rank, E read columns, F features of one SAE, W
width of a hidden layer, R columns that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pilothouse.edits.statistic import Statistic
from pilothouse.engine.plan.tap_plan import HiddenColumns, TapPlan
from pilothouse.engine.worker.sae_encoder import SaeTables, encoded
from pilothouse.engine.worker.tables import named_sae_tensors, sae_on
from pilothouse.engine.worker.token_stats import TokenStats, token_stats
from pilothouse.types import FloatArray

AllReduce = Callable[[Tensor], Tensor]


class CodeRead(NamedTuple):
    """Codes of some features, int64, of one resident SAE."""

    tables: SaeTables
    features_F: Tensor


class HiddenRead(NamedTuple):
    """A hidden layer on a device, float32, and the columns that read it."""

    weights_DW: Tensor
    bias_W: Tensor
    rows_WR: Tensor
    facts: HiddenColumns

    def scores(
        self, stream_TD: Tensor, measured: TokenStats | None, all_reduce: AllReduce | None
    ) -> Tensor:
        """Return its columns of each token, [T, R] float32. Pure."""
        hidden_TW = read(stream_TD, self.weights_DW)
        hidden_TW = hidden_TW if all_reduce is None else all_reduce(hidden_TW)
        if measured is not None and self.facts.statistic:
            hidden_TW = hidden_TW * measured.of(Statistic(self.facts.statistic))[0]
        hidden_TW = hidden_TW + self.bias_W
        acted_TW = hidden_TW.relu() if self.facts.activation == "relu" else hidden_TW.square()
        return acted_TW @ self.rows_WR


@dataclass(frozen=True, slots=True)
class ReadColumns:
    """Columns [start, stop) of the scores: of rows, then of codes, then of hidden layers.

    `reads_DE` float32; `statistics_E` int64 where some row counts a token in a number of its own.
    `width` counts elements of a token on all ranks together.
    """

    start: int
    stop: int
    width: int
    reads_DE: Tensor | None = None
    statistics_E: Tensor | None = None
    codes: Sequence[CodeRead] = ()
    hidden: Sequence[HiddenRead] = ()

    def scores(self, stream_TD: Tensor, all_reduce: AllReduce | None) -> Tensor:
        """Return every column of each token, [T, E] float32. Pure."""
        is_measured = any(each.tables.facts.is_measured for each in self.codes)
        is_measured |= any(each.facts.statistic != Statistic.NONE for each in self.hidden)
        measured = None
        if is_measured or self.statistics_E is not None:
            measured = token_stats(stream_TD, self.width, all_reduce)
        parts = []
        if self.reads_DE is not None:
            read_TE = read(stream_TD, self.reads_DE)
            read_TE = read_TE if all_reduce is None else all_reduce(read_TE)
            if self.statistics_E is not None and measured is not None:
                read_TE = read_TE * measured.factor_TN[:, self.statistics_E]
            parts.append(read_TE)
        for tables, features_F in self.codes:
            feature_TF = features_F.expand(stream_TD.shape[0], -1)
            parts.append(encoded(stream_TD, feature_TF, tables, measured, all_reduce).codes_TR)
        parts += [each.scores(stream_TD, measured, all_reduce) for each in self.hidden]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def named_tensors(self) -> dict[str, Tensor]:
        """Return every tensor, by the name that `on` looks for."""
        found = {} if self.reads_DE is None else {"reads": self.reads_DE}
        if self.statistics_E is not None:
            found["read_statistics"] = self.statistics_E
        for number, each in enumerate(self.codes):
            found[f"read_features{number}"] = each.features_F
        for number, layer in enumerate(self.hidden):
            found[f"hidden_weights{number}"] = layer.weights_DW
            found[f"hidden_bias{number}"] = layer.bias_W
            found[f"hidden_rows{number}"] = layer.rows_WR
        return found | named_sae_tensors(each.tables for each in self.codes)

    def on(self, found: Callable[[str], Tensor]) -> ReadColumns:
        """Return the same columns, each tensor found by its name."""
        return ReadColumns(
            self.start,
            self.stop,
            self.width,
            None if self.reads_DE is None else found("reads"),
            None if self.statistics_E is None else found("read_statistics"),
            [
                CodeRead(sae_on(found, each.tables), found(f"read_features{number}"))
                for number, each in enumerate(self.codes)
            ],
            [
                HiddenRead(
                    found(f"hidden_weights{number}"),
                    found(f"hidden_bias{number}"),
                    found(f"hidden_rows{number}"),
                    each.facts,
                )
                for number, each in enumerate(self.hidden)
            ],
        )


def columns_of(
    tap: TapPlan,
    rows_DE: FloatArray | None,
    resident_saes: Mapping[str, SaeTables],
    device: torch.device,
    hidden: Sequence[Mapping[str, FloatArray]] = (),
) -> ReadColumns | None:
    """Return the columns of a tap; None where nothing is read.

    Args:
        device: where the tensors lie.
        tap: the tap.
        rows_DE: the plan's rows there, as far as this rank has the width; None where it has none.
        resident_saes: the SAEs at the tap, by their digests.
        hidden: of each of the tap's hidden layers `weights` [D, W], as far as this rank has the
            width, `bias` [W] and `rows` [W, R].
    """
    if tap.read_stop == tap.read_start:
        return None
    reads_DE = None
    if rows_DE is not None:
        reads_DE = _on_device(rows_DE, device)
    return ReadColumns(
        tap.read_start,
        tap.read_stop,
        tap.width,
        reads_DE,
        torch.tensor(tap.statistics, device=device) if tap.statistics else None,
        [
            CodeRead(resident_saes[each.latent.sae], torch.tensor(each.features, device=device))
            for each in tap.codes
        ],
        [
            HiddenRead(
                weights_DW=_on_device(arrays["weights"], device),
                bias_W=_on_device(arrays["bias"], device),
                rows_WR=_on_device(arrays["rows"], device),
                facts=facts,
            )
            for facts, arrays in zip(tap.hidden, hidden, strict=True)
        ],
    )


def _on_device(array: FloatArray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C")).to(device)


def read(stream_TD: Tensor, reads_DE: Tensor) -> Tensor:
    """Return read values in float32: `scores_TE = h_TD @ reads_DE`. Pure."""
    return stream_TD.float() @ reads_DE
