"""Gated rows, on a device: each token's own, or all of the policies' on every token.

Nothing of the size tokens x rows x width is made: a compiler fuses what reads and writes rows, and
without one they are walked one by one.

Shape suffixes: T tokens, D width of the tap on this rank, S slots, R rows, G numbers of a gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.edits.gate import GATE_WIDTH, Gate
from pilothouse.edits.ops.rows import GatedRows
from pilothouse.edits.row import ROWS
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.engine.worker.device_table import (
    DeviceKind,
    Shapes,
    StepTokens,
    copy_into,
    register_device_table,
)
from pilothouse.engine.worker.row_inputs import row_inputs_of
from pilothouse.engine.worker.sae_encoder import SaeTables

BIAS, THRESHOLD, SLOPE, INTERCEPT, LOW, HIGH, SHARPNESS, SHIFT, IN_PLANE, TURN = range(
    len(Gate._fields)
)


class RowTables(NamedTuple):
    """Gated rows of every slot, float32; statistics and features int64, where the plan has them."""

    reads_SRD: Tensor
    writes_SRD: Tensor
    gates_SRG: Tensor
    sees_SRR: Tensor
    statistics_SR: Tensor | None = None
    features_SR: Tensor | None = None
    """0 where a row reads the stream, else a feature of the resident SAEs, counted on from 1."""
    has_planes: bool = False

    def apply(self, tokens: StepTokens, given_TD: Tensor) -> Tensor:
        """Return the sum of what the rows write.

        Those that see others' writes see those that see none.
        """
        slot_T, strength_T1 = tokens.slot_T, tokens.strength_T1
        reads_TR = _products(given_TD, slot_T, self.reads_SRD)
        if tokens.all_reduce is not None:
            reads_TR = tokens.all_reduce(reads_TR)
        gates_TRG = self.gates_SRG[slot_T]
        inputs = row_inputs_of(
            given_TD,
            None if self.statistics_SR is None else self.statistics_SR[slot_T],
            None if self.features_SR is None else self.features_SR[slot_T],
            tokens.latents,
            tokens.width,
            tokens.all_reduce,
        )
        reads_TR = inputs.read(reads_TR, gates_TRG[..., BIAS])
        first_TR = strength_T1 * open_share(reads_TR, gates_TRG)
        turns_TR = gates_TRG[..., IN_PLANE] > 0
        if self.has_planes:
            turned_TR = strength_T1 * plane_share(reads_TR, gates_TRG)
            first_TR = torch.where(turns_TR, turned_TR, first_TR)
        seen_TR = (self.sees_SRR[slot_T] * inputs.back(first_TR).unsqueeze(-2)).sum(-1)
        written_TR = strength_T1 * open_share(reads_TR + inputs.factor(seen_TR), gates_TRG)
        if self.has_planes:
            written_TR = torch.where(turns_TR, first_TR, written_TR)
        delta_TD = _combined(inputs.back(written_TR), slot_T, self.writes_SRD)
        return inputs.with_joint_codes(delta_TD, written_TR)


def _products(stream_TD: Tensor, slot_T: Tensor, reads_SRD: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return (stream_TD.unsqueeze(1) * reads_SRD[slot_T]).sum(-1)
    each_row = range(reads_SRD.shape[1])
    return torch.stack([(stream_TD * reads_SRD[slot_T, r]).sum(-1) for r in each_row], dim=-1)


def _combined(written_TR: Tensor, slot_T: Tensor, writes_SRD: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return (written_TR.unsqueeze(-1) * writes_SRD[slot_T]).sum(1)
    delta_TD = written_TR[:, :1] * writes_SRD[slot_T, 0]
    for r in range(1, writes_SRD.shape[1]):
        delta_TD = delta_TD + written_TR[:, r : r + 1] * writes_SRD[slot_T, r]
    return delta_TD


def open_share(reads_TR: Tensor, gates_TRG: Tensor) -> Tensor:
    """Return `edit.gate.open_share` of each token's own gates."""
    active_TR = torch.where(
        reads_TR > gates_TRG[..., THRESHOLD], reads_TR, torch.zeros_like(reads_TR)
    )
    share_TR = gates_TRG[..., SLOPE] * active_TR + gates_TRG[..., INTERCEPT]
    share_TR = torch.minimum(torch.maximum(share_TR, gates_TRG[..., LOW]), gates_TRG[..., HIGH])
    return share_TR * torch.sigmoid(gates_TRG[..., SHARPNESS] * reads_TR + gates_TRG[..., SHIFT])


def plane_share(reads_TR: Tensor, gates_TRG: Tensor) -> Tensor:
    """Return `edit.gate.plane_share` of each pair of rows; a last row without another has none."""
    pairs = reads_TR.shape[-1] // 2
    reads_TP2 = reads_TR[..., : 2 * pairs].reshape(-1, pairs, 2)
    turns_TP2 = gates_TRG[:, : 2 * pairs, TURN].reshape(-1, pairs, 2)
    radius_TP1 = torch.hypot(reads_TP2[..., :1], reads_TP2[..., 1:])
    open_TP1 = reads_TP2[..., :1] > gates_TRG[:, : 2 * pairs : 2, THRESHOLD].unsqueeze(-1)
    share_TP2 = radius_TP1 * turns_TP2 - reads_TP2
    share_TP2 = torch.where(open_TP1, share_TP2, torch.zeros_like(share_TP2))
    share_TR = share_TP2.flatten(-2)
    if reads_TR.shape[-1] % 2:
        share_TR = torch.cat([share_TR, torch.zeros_like(reads_TR[..., :1])], dim=-1)
    return share_TR


def feature_numbers(
    features: Iterable[tuple[str, int] | None], latents: Iterable[SaeTables]
) -> list[int]:
    """Return a number for each feature, counted on from 1 through the SAEs; 0 for none."""
    firsts: dict[str, int] = {}
    first = 1
    for each in latents:
        firsts[each.facts.sae] = first
        first += each.facts.num_features
    return [0 if each is None else firsts[each[0]] + each[1] for each in features]


def _shapes(edits: EditPlan, width: int) -> Shapes:
    rank = edits.rank
    shapes: dict[str, tuple[int, ...]] = {
        "reads_SRD": (rank, width),
        "writes_SRD": (rank, width),
        "gates_SRG": (rank, GATE_WIDTH),
        "sees_SRR": (rank, rank),
    }
    shapes |= {"statistics_SR": (rank,)} if "statistics" in edits.tables else {}
    return shapes | ({"features_SR": (rank,)} if edits.latents else {})


def _upload(tables: RowTables, slot: int, rows: GatedRows, latents: Sequence[SaeTables]) -> None:
    for tensor, numbers in zip(tables[:4], rows.numbers(), strict=True):
        copy_into(tensor[slot], numbers)
    if rows.statistics_R:
        assert tables.statistics_SR is not None, "admission checks that the tap has statistics"
        tables.statistics_SR[slot, : rows.rank].copy_(torch.tensor(rows.statistics_R))
    if rows.latents_R:
        assert tables.features_SR is not None, "admission checks that the tap has the SAE"
        features = [None if each is None else (each.sae, each.feature) for each in rows.latents_R]
        found = torch.tensor(feature_numbers(features, latents))
        tables.features_SR[slot, : rows.rank].copy_(found)


register_device_table(
    DeviceKind(
        name=ROWS,
        tables=RowTables,
        shapes=_shapes,
        is_held=lambda edits: edits.rank > 0,
        whole_numbers=frozenset({"statistics_SR", "features_SR"}),
        static=lambda edits: {"has_planes": "planes" in edits.tables},
        upload=_upload,
    )
)
