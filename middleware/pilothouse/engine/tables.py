"""Device memory of the edits: what each tap's programs and policies need, allocated once.

Shape suffixes: S slots (row 0 zeros), R rows, D width of the tap on this rank, G numbers of a
gate, P policy targets, K rows of all policy targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pilothouse.edit.gate import GATE_WIDTH
from pilothouse.edit.layer import DIAGONAL_ROWS, LayerEdit
from pilothouse.engine.kernel import EditTables, PolicyRows, PolicyTables, RowTables
from pilothouse.engine.latents import LatentTables
from pilothouse.engine.tap_plan import EditPlan, PolicyRow
from pilothouse.types import FloatArray


def allocate(
    edits: EditPlan,
    *,
    slots: int,
    width: int,
    device: torch.device,
    total: int | None = None,
    latents: Sequence[LatentTables] = (),
) -> EditTables:
    """Zeros: every slot gives the stream back.

    Args:
        total: elements of a token on all ranks, where a rank has not the whole width.
        latents: the SAEs of `edits.latents`, in that order.
    """

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=device)

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=device)

    rows = None
    if edits.rank:
        rows = RowTables(
            reads_SRD=zeros(slots, edits.rank, width),
            writes_SRD=zeros(slots, edits.rank, width),
            gates_SRG=zeros(slots, edits.rank, GATE_WIDTH),
            sees_SRR=zeros(slots, edits.rank, edits.rank),
            statistics_SR=numbers(slots, edits.rank) if edits.statistics else None,
            features_SR=numbers(slots, edits.rank) if edits.latents else None,
        )
    return EditTables(
        additions_SD=zeros(slots, width),
        rows=rows,
        diagonals_S4D=zeros(slots, DIAGONAL_ROWS, width) if edits.diagonal else None,
        slerps_SD=zeros(slots, width) if edits.slerp else None,
        slerp_shares_S=zeros(slots) if edits.slerp else None,
        relatives_SD=zeros(slots, width) if edits.relative else None,
        restores_norm_S=zeros(slots) if edits.restores_norm else None,
        has_planes=edits.planes,
        latents=tuple(latents),
        width=width if total is None else total,
    )


def upload(tables: EditTables, slot: int, edit: LayerEdit | None) -> None:
    """Write what a program does at this tap into its slot; None makes the slot empty."""
    for table in _slot_tensors(tables).values():
        table[slot].zero_()
    if edit is None:
        return
    if edit.addition_D is not None:
        tables.additions_SD[slot].copy_(_tensor(edit.addition_D))
    if edit.rank:
        assert tables.rows is not None, "admission checks that the tap has rows"
        tables.rows.reads_SRD[slot, : edit.rank].copy_(_tensor(edit.reads_RD))
        tables.rows.writes_SRD[slot, : edit.rank].copy_(_tensor(edit.writes_RD))
        tables.rows.gates_SRG[slot, : edit.rank].copy_(_tensor(edit.gates_RG))
        tables.rows.sees_SRR[slot, : edit.rank, : edit.rank].copy_(_tensor(edit.sees_RR))
        _upload_inside(tables, tables.rows, slot, edit)
    if edit.diagonal_4D is not None:
        assert tables.diagonals_S4D is not None, "admission checks that the tap has diagonals"
        tables.diagonals_S4D[slot].copy_(_tensor(edit.diagonal_4D))
    if edit.slerp_D is not None:
        assert tables.slerps_SD is not None, "admission checks that the tap has slerps"
        assert tables.slerp_shares_S is not None
        tables.slerps_SD[slot].copy_(_tensor(edit.slerp_D))
        tables.slerp_shares_S[slot] = edit.slerp_share
    if edit.relative_D is not None:
        assert tables.relatives_SD is not None, "admission checks that the tap has token units"
        tables.relatives_SD[slot].copy_(_tensor(edit.relative_D))
    if edit.norm:
        assert tables.restores_norm_S is not None, "admission checks that the tap has norms"
        tables.restores_norm_S[slot] = float(edit.norm)


def _upload_inside(tables: EditTables, rows: RowTables, slot: int, edit: LayerEdit) -> None:
    """Statistics and features of rows."""
    if edit.statistics_R:
        assert rows.statistics_SR is not None, "admission checks that the tap has statistics"
        rows.statistics_SR[slot, : edit.rank].copy_(torch.tensor(edit.statistics_R))
    if edit.latents_R:
        assert rows.features_SR is not None, "admission checks that the tap has the SAE"
        features = [None if each is None else (each.sae, each.feature) for each in edit.latents_R]
        rows.features_SR[slot, : edit.rank].copy_(torch.tensor(_numbers(features, tables.latents)))


def _numbers(
    features: Iterable[tuple[str, int] | None], latents: Iterable[LatentTables]
) -> list[int]:
    """A number for each feature, counted on from 1 through the SAEs; 0 for none."""
    firsts: dict[str, int] = {}
    first = 1
    for each in latents:
        firsts[each.facts.sae] = first
        first += each.facts.num_features
    return [0 if each is None else firsts[each[0]] + each[1] for each in features]


def policy_tables(
    tensors: Mapping[str, FloatArray],
    part: slice,
    policy_rows: Sequence[PolicyRow],
    device: torch.device,
    *,
    total: int = 0,
    latents: Sequence[LatentTables] = (),
) -> PolicyTables:
    """The policies' programs at one tap.

    Args:
        tensors: `additions` [P, D], and `reads` [K, D], `writes` [K, D], `gates` [K, G], `sees`
            [K, K] where some policy has rows.
        part: the elements of D that this rank has.
        policy_rows: what each of the K rows is.
        total: elements of a token on all ranks.
        latents: the SAEs whose codes rows read.
    """
    additions_PD = _tensor(tensors["additions"][:, part]).to(device)
    if not policy_rows:
        return PolicyTables(additions_PD)
    statistics = [each.statistic for each in policy_rows]
    features = [
        None if each.latent is None else (each.latent.sae, each.feature) for each in policy_rows
    ]
    rows = PolicyRows(
        reads_DK=_tensor(tensors["reads"][:, part]).T.contiguous().to(device),
        writes_KD=_tensor(tensors["writes"][:, part]).to(device),
        gates_KG=_tensor(tensors["gates"]).to(device),
        sees_KK=_tensor(tensors["sees"]).to(device),
        targets_K=tuple(each.target for each in policy_rows),
        statistics_K=torch.tensor(statistics, device=device) if any(statistics) else None,
        features_K=torch.tensor(_numbers(features, latents), device=device) if latents else None,
    )
    return PolicyTables(additions_PD, rows, tuple(latents), total)


def named_tensors(tables: EditTables | PolicyTables | None) -> dict[str, Tensor]:
    """Every tensor, by the name that `tables_on` and `policies_on` look for."""
    if tables is None:
        return {}
    return _slot_tensors(tables) | named_latents(tables.latents)


def named_latents(latents: Iterable[LatentTables]) -> dict[str, Tensor]:
    """Every tensor of resident SAEs, by the name that `latent_on` looks for.

    Names hold the SAE, so that one that serves several purposes at a tap lies there once.
    """
    return {
        f"{_head(each)}{name}": value
        for each in latents
        for name, value in each._asdict().items()
        if isinstance(value, Tensor)
    }


def latent_on(on: Callable[[str], Tensor], like: LatentTables) -> LatentTables:
    """The same SAE, its tensors found by their names."""
    return LatentTables(like.facts, **_found(on, like, _head(like)))


def _head(latent: LatentTables) -> str:
    return f"latent_{latent.facts.sae}_"


def _slot_tensors(tables: EditTables | PolicyTables) -> dict[str, Tensor]:
    """Those that have a row for each slot or target."""
    found: dict[str, Tensor] = {}
    kind = "policy_" if isinstance(tables, PolicyTables) else ""
    for owner in (tables, tables.rows):
        for name, value in (owner._asdict() if owner is not None else {}).items():
            if isinstance(value, Tensor):
                found[f"{kind}{name}"] = value
    return found


def tables_on(on: Callable[[str], Tensor], like: EditTables) -> EditTables:
    """The same tables, each found by its name."""
    rows = None if like.rows is None else RowTables(**_found(on, like.rows))
    return EditTables(
        **_found(on, like),
        rows=rows,
        has_planes=like.has_planes,
        latents=tuple(latent_on(on, each) for each in like.latents),
        width=like.width,
    )


def _found(
    on: Callable[[str], Tensor],
    like: EditTables | RowTables | PolicyRows | LatentTables,
    head: str = "",
) -> dict[str, Any]:
    return {
        name: on(f"{head}{name}")
        for name, value in like._asdict().items()
        if isinstance(value, Tensor)
    }


def policies_on(on: Callable[[str], Tensor], like: PolicyTables | None) -> PolicyTables | None:
    """The same policies' tables, each found by its name."""
    if like is None:
        return None
    rows = None
    if like.rows is not None:
        rows = PolicyRows(targets_K=like.rows.targets_K, **_found(on, like.rows, "policy_"))
    latents = tuple(latent_on(on, each) for each in like.latents)
    return PolicyTables(on("policy_additions_PD"), rows, latents, like.width)


def _tensor(array: FloatArray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
