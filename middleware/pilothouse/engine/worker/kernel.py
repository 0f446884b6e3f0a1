"""The edit at a tap, as plain torch operations on static tables: traced once, no host work.

Every token picks its program's row of each table by slot. Slot 0 is zeros and gives the token back
bit for bit. What each kind of table does stands in `engine.ops`; here they are put together.

Shape suffixes: T tokens, D width of the tap on this rank, G numbers of a gate, P policy targets,
K rows of all policy targets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pilothouse.edits.table import Role
from pilothouse.engine.ops.rows import BIAS, open_share
from pilothouse.engine.worker.device_table import AllReduce, Held, StepTokens
from pilothouse.engine.worker.row_inputs import row_inputs_of
from pilothouse.engine.worker.sae_encoder import SaeTables


class EditTables(NamedTuple):
    """All tables of one tap, in the order in which they are applied.

    What the plan does not need is not among them and costs nothing. The first are the additions,
    with which the sum of what is written begins.
    """

    held: tuple[Held, ...]
    latents: tuple[SaeTables, ...] = ()
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
    latents: tuple[SaeTables, ...] = ()
    width: int = 0
    """Elements of a token on all ranks together."""


def edit_delta(
    stream_TD: Tensor,
    slot_T: Tensor,
    coefficient_T: Tensor,
    tables: EditTables,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """Return what a request's program adds to the stream, in float32. Pure.

    Args:
        stream_TD: the true stream, float32.
        slot_T: each token's program.
        coefficient_T: each token's strength.
        tables: the tap's.
        all_reduce: sums over the ranks that share the width, where it is sharded.
    """
    tokens = StepTokens(
        stream_TD,
        slot_T,
        coefficient_T,
        coefficient_T.unsqueeze(-1),
        tables.latents,
        tables.width,
        all_reduce,
    )
    moved_TD = stream_TD
    delta_TD: Tensor = tables.held[0].tables.apply(tokens, stream_TD)
    # Which kinds a tap has is fixed when this is traced: the loop is unrolled then.
    for _, role, each in tables.held[1:]:
        if role == Role.FINISH:
            delta_TD = each.apply(tokens, delta_TD)
            continue
        change_TD = each.apply(tokens, moved_TD)
        if role == Role.MAP:
            moved_TD = moved_TD + change_TD
        delta_TD = delta_TD + change_TD
    return delta_TD


def policy_delta(
    stream_TD: Tensor,
    strengths_TP: Tensor,
    tables: PolicyTables,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """Return what the policies add to the stream that the request's edit left. Pure, float32."""
    delta_TD = strengths_TP @ tables.additions_PD
    rows = tables.rows
    if rows is None:
        return delta_TD
    raw_TK = stream_TD @ rows.reads_DK
    if all_reduce is not None:
        raw_TK = all_reduce(raw_TK)
    count = stream_TD.shape[0]
    inputs = row_inputs_of(
        stream_TD,
        None if rows.statistics_K is None else rows.statistics_K.expand(count, -1),
        None if rows.features_K is None else rows.features_K.expand(count, -1),
        tables.latents,
        tables.width,
        all_reduce,
    )
    reads_TK = inputs.read(raw_TK, rows.gates_KG[:, BIAS])
    written: list[Tensor] = []
    for k, target in enumerate(rows.targets_K):
        read_T = reads_TK[:, k]
        for q, before_T in enumerate(written):
            read_T = read_T + rows.sees_KK[k, q] * inputs.seen(q, k, before_T)
        written.append(strengths_TP[:, target] * open_share(read_T, rows.gates_KG[k].unsqueeze(0)))
    return delta_TD + inputs.back(torch.stack(written, dim=-1)) @ rows.writes_KD
