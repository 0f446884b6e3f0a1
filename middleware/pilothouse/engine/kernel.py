"""The edit at a tap, as plain torch operations on static tables: traced once, no host work.

Every token picks its program's row of each table by slot. Slot 0 is zeros and gives the token back
bit for bit. Nothing of the size tokens x rows x width is made: a compiler fuses what reads and
writes rows, and without one they are walked one by one.

Shape suffixes: T tokens, D width of the tap on this rank, S slots, R rows, G numbers of a gate,
P policy targets, K rows of all policy targets, M features of a resident SAE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.edit.gate import Gate
from pilothouse.edit.layer import Norm
from pilothouse.edit.slerp import NARROW
from pilothouse.engine.inside import inside_of
from pilothouse.engine.latents import LatentTables

BIAS, THRESHOLD, SLOPE, INTERCEPT, LOW, HIGH, SHARPNESS, SHIFT, IN_PLANE, TURN = range(
    len(Gate._fields)
)
NOT_LONGER = float(Norm.NOT_LONGER)
AllReduce = Callable[[Tensor], Tensor]


class RowTables(NamedTuple):
    """Gated rows of every slot, float32; statistics and features int64, where the plan has them."""

    reads_SRD: Tensor
    writes_SRD: Tensor
    gates_SRG: Tensor
    sees_SRR: Tensor
    statistics_SR: Tensor | None = None
    features_SR: Tensor | None = None
    """0 where a row reads the stream, else a feature of the resident SAEs, counted on from 1."""


class EditTables(NamedTuple):
    """All tables of one tap; what the plan does not need is None and costs nothing."""

    additions_SD: Tensor
    rows: RowTables | None = None
    diagonals_S4D: Tensor | None = None
    slerps_SD: Tensor | None = None
    slerp_shares_S: Tensor | None = None
    relatives_SD: Tensor | None = None
    restores_norm_S: Tensor | None = None
    has_planes: bool = False
    latents: tuple[LatentTables, ...] = ()
    width: int = 0
    """Elements of a token on all ranks together."""


class PolicyRows(NamedTuple):
    """Gated rows of all policy targets at one tap; `targets_K` says whose each is.

    Statistics and features as in `RowTables`, where the plan has them.
    """

    reads_DK: Tensor
    writes_KD: Tensor
    gates_KG: Tensor
    sees_KK: Tensor
    targets_K: tuple[int, ...]
    statistics_K: Tensor | None = None
    features_K: Tensor | None = None


class PolicyTables(NamedTuple):
    """The policies' programs at one tap, float32: few, resident, several at once on a token."""

    additions_PD: Tensor
    rows: PolicyRows | None = None
    latents: tuple[LatentTables, ...] = ()
    width: int = 0
    """Elements of a token on all ranks together."""


def edit_delta(
    stream_TD: Tensor,
    slot_T: Tensor,
    coefficient_T: Tensor,
    tables: EditTables,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """What a request's program adds to the stream, in float32. Pure.

    Args:
        stream_TD: the true stream, float32.
        all_reduce: sums over the ranks that share the width, where it is sharded.
    """
    strength_T1 = coefficient_T.unsqueeze(-1)
    delta_TD = strength_T1 * tables.additions_SD[slot_T]
    moved_TD = stream_TD
    if tables.diagonals_S4D is not None:
        mapped_TD = strength_T1 * diagonal(stream_TD, tables.diagonals_S4D, slot_T)
        moved_TD = stream_TD + mapped_TD
        delta_TD = delta_TD + mapped_TD
    if tables.slerps_SD is not None and tables.slerp_shares_S is not None:
        share_T = coefficient_T * tables.slerp_shares_S[slot_T]
        turned_TD = slerp(moved_TD, tables.slerps_SD[slot_T], share_T, all_reduce)
        moved_TD = moved_TD + turned_TD
        delta_TD = delta_TD + turned_TD
    if tables.rows is not None:
        delta_TD = delta_TD + gated_rows(
            moved_TD, slot_T, coefficient_T, tables.rows, tables, all_reduce
        )
    if tables.relatives_SD is not None:
        length_T1 = length(stream_TD, all_reduce).unsqueeze(-1)
        delta_TD = delta_TD + strength_T1 * length_T1 * tables.relatives_SD[slot_T]
    if tables.restores_norm_S is not None:
        restored_T = tables.restores_norm_S[slot_T]
        delta_TD = with_norm_kept(stream_TD, delta_TD, restored_T, all_reduce)
    return delta_TD


def policy_delta(
    stream_TD: Tensor,
    strengths_TP: Tensor,
    tables: PolicyTables,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """What the policies add to the stream that the request's edit left, in float32. Pure."""
    delta_TD = strengths_TP @ tables.additions_PD
    rows = tables.rows
    if rows is None:
        return delta_TD
    raw_TK = stream_TD @ rows.reads_DK
    if all_reduce is not None:
        raw_TK = all_reduce(raw_TK)
    count = stream_TD.shape[0]
    inside = inside_of(
        stream_TD,
        None if rows.statistics_K is None else rows.statistics_K.expand(count, -1),
        None if rows.features_K is None else rows.features_K.expand(count, -1),
        tables.latents, tables.width, all_reduce,
    )  # fmt: skip
    reads_TK = inside.read(raw_TK, rows.gates_KG[:, BIAS])
    written: list[Tensor] = []
    for k, target in enumerate(rows.targets_K):
        read_T = reads_TK[:, k]
        for q, before_T in enumerate(written):
            read_T = read_T + rows.sees_KK[k, q] * inside.seen(q, k, before_T)
        written.append(strengths_TP[:, target] * open_share(read_T, rows.gates_KG[k].unsqueeze(0)))
    return delta_TD + inside.back(torch.stack(written, dim=-1)) @ rows.writes_KD


def diagonal(stream_TD: Tensor, diagonals_S4D: Tensor, slot_T: Tensor) -> Tensor:
    """weight h + bias where low < h < high, else 0."""
    low_TD, high_TD = diagonals_S4D[slot_T, 2], diagonals_S4D[slot_T, 3]
    inside_TD = (stream_TD > low_TD) & (stream_TD < high_TD)
    mapped_TD = diagonals_S4D[slot_T, 0] * stream_TD + diagonals_S4D[slot_T, 1]
    return torch.where(inside_TD, mapped_TD, torch.zeros_like(mapped_TD))


def slerp(
    stream_TD: Tensor, unit_TD: Tensor, share_T: Tensor, all_reduce: AllReduce | None
) -> Tensor:
    """What `edit.slerp.slerped` adds, each token with its own direction and share; exact at 0."""
    along_T = (stream_TD * unit_TD).sum(-1)
    if all_reduce is not None:
        along_T = all_reduce(along_T)
    # From the part across itself: a difference of squares would lose it where it is small.
    across_T = length(stream_TD - along_T.unsqueeze(-1) * unit_TD, all_reduce)
    length_T = torch.hypot(along_T, across_T)
    left_T = (1.0 - share_T) * torch.atan2(across_T, along_T)
    wide_T = across_T > NARROW * length_T
    divisor_T = torch.where(wide_T, across_T, torch.ones_like(across_T))
    kept_T = torch.where(wide_T, length_T * torch.sin(left_T) / divisor_T, 1.0 - share_T)
    moved_T = length_T * torch.cos(left_T) - kept_T * along_T
    turned_TD = (kept_T - 1.0).unsqueeze(-1) * stream_TD + moved_T.unsqueeze(-1) * unit_TD
    turns_T = (share_T != 0) & (wide_T | (along_T > 0))
    return torch.where(turns_T.unsqueeze(-1), turned_TD, torch.zeros_like(turned_TD))


def length(stream_TD: Tensor, all_reduce: AllReduce | None) -> Tensor:
    """Each token's length."""
    squares_T = (stream_TD**2).sum(-1)
    if all_reduce is not None:
        squares_T = all_reduce(squares_T)
    return torch.sqrt(squares_T)


def gated_rows(
    stream_TD: Tensor,
    slot_T: Tensor,
    coefficient_T: Tensor,
    rows: RowTables,
    tables: EditTables,
    all_reduce: AllReduce | None,
) -> Tensor:
    """The sum of what the rows write. Those that see others' writes see those that see none."""
    reads_TR = _products(stream_TD, slot_T, rows.reads_SRD)
    if all_reduce is not None:
        reads_TR = all_reduce(reads_TR)
    gates_TRG = rows.gates_SRG[slot_T]
    inside = inside_of(
        stream_TD,
        None if rows.statistics_SR is None else rows.statistics_SR[slot_T],
        None if rows.features_SR is None else rows.features_SR[slot_T],
        tables.latents, tables.width, all_reduce,
    )  # fmt: skip
    reads_TR = inside.read(reads_TR, gates_TRG[..., BIAS])
    strength_T1 = coefficient_T.unsqueeze(-1)
    first_TR = strength_T1 * open_share(reads_TR, gates_TRG)
    turns_TR = gates_TRG[..., IN_PLANE] > 0
    if tables.has_planes:
        turned_TR = strength_T1 * plane_share(reads_TR, gates_TRG)
        first_TR = torch.where(turns_TR, turned_TR, first_TR)
    seen_TR = (rows.sees_SRR[slot_T] * inside.back(first_TR).unsqueeze(-2)).sum(-1)
    written_TR = strength_T1 * open_share(reads_TR + inside.factor(seen_TR), gates_TRG)
    if tables.has_planes:
        written_TR = torch.where(turns_TR, first_TR, written_TR)
    delta_TD = _combined(inside.back(written_TR), slot_T, rows.writes_SRD)
    return inside.with_joint_codes(delta_TD, written_TR)


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
    """`edit.gate.open_share` of each token's own gates."""
    active_TR = torch.where(
        reads_TR > gates_TRG[..., THRESHOLD], reads_TR, torch.zeros_like(reads_TR)
    )
    share_TR = gates_TRG[..., SLOPE] * active_TR + gates_TRG[..., INTERCEPT]
    share_TR = torch.minimum(torch.maximum(share_TR, gates_TRG[..., LOW]), gates_TRG[..., HIGH])
    return share_TR * torch.sigmoid(gates_TRG[..., SHARPNESS] * reads_TR + gates_TRG[..., SHIFT])


def plane_share(reads_TR: Tensor, gates_TRG: Tensor) -> Tensor:
    """`edit.gate.plane_share` of each pair of rows; a last row without another has none."""
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


def with_norm_kept(
    stream_TD: Tensor, delta_TD: Tensor, restored_T: Tensor, all_reduce: AllReduce | None
) -> Tensor:
    """The change that leaves each marked token as long as it was, or no longer than that."""
    edited_TD = stream_TD + delta_TD
    squares_T2 = torch.stack([(stream_TD**2).sum(-1), (edited_TD**2).sum(-1)], dim=-1)
    if all_reduce is not None:
        squares_T2 = all_reduce(squares_T2)
    ratio_T = torch.sqrt(squares_T2[:, 0] / squares_T2[:, 1].clamp_min(1e-30))
    ratio_T = torch.where(restored_T == NOT_LONGER, ratio_T.clamp_max(1.0), ratio_T)
    kept_TD = edited_TD * ratio_T.unsqueeze(-1) - stream_TD
    return torch.where(restored_T.unsqueeze(-1) > 0, kept_TD, delta_TD)
