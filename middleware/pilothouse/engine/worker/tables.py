"""Device memory of the edits: what each tap's programs and policies need, allocated once.

Shape suffixes: D width of the tap on this rank, G numbers of a gate, P policy targets, K rows of
all policy targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pilothouse.edits.layer import LayerEdit
from pilothouse.engine.ops import DEVICE_KINDS, held_kinds
from pilothouse.engine.ops.rows import feature_numbers
from pilothouse.engine.plan.tap_plan import EditPlan, PolicyRow
from pilothouse.engine.worker.device_table import DeviceTable, Held
from pilothouse.engine.worker.kernel import EditTables, PolicyRows, PolicyTables
from pilothouse.engine.worker.sae_encoder import SaeTables
from pilothouse.types import FloatArray


def allocate(
    edits: EditPlan,
    *,
    slots: int,
    width: int,
    device: torch.device,
    total: int | None = None,
    latents: Sequence[SaeTables] = (),
) -> EditTables:
    """Return zeros: every slot gives the stream back.

    Args:
        edits: what the tap has tables for.
        slots: how many programs it holds, the empty one included.
        width: elements of a token on this rank.
        device: where they lie.
        total: elements of a token on all ranks, where a rank has not the whole width.
        latents: the SAEs of `edits.latents`, in that order.
    """
    held = [
        kind.allocate(edits, slots=slots, width=width, device=device) for kind in held_kinds(edits)
    ]
    return EditTables(tuple(held), tuple(latents), width if total is None else total)


def upload(tables: EditTables, slot: int, edit: LayerEdit | None) -> None:
    """Write what a program does at this tap into its slot; None makes the slot empty."""
    for table in _slot_tensors(tables).values():
        table[slot].zero_()
    given = {} if edit is None else {each.name: each for each in edit.tables}
    for name, _, held in tables.held:
        if name in given:
            DEVICE_KINDS[name].upload(held, slot, given.pop(name), tables.latents)
    assert not given, f"admission checks that the tap has tables for {sorted(given)}"


def policy_tables(
    tensors: Mapping[str, FloatArray],
    part: slice,
    policy_rows: Sequence[PolicyRow],
    device: torch.device,
    *,
    total: int = 0,
    latents: Sequence[SaeTables] = (),
) -> PolicyTables:
    """Return the policies' programs at one tap.

    Args:
        device: where the tensors lie.
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
        features_K=torch.tensor(feature_numbers(features, latents), device=device)
        if latents
        else None,
    )
    return PolicyTables(additions_PD, rows, tuple(latents), total)


def named_tensors(tables: EditTables | PolicyTables | None) -> dict[str, Tensor]:
    """Return every tensor, by the name that `tables_on` and `policies_on` look for."""
    if tables is None:
        return {}
    return _slot_tensors(tables) | named_sae_tensors(tables.latents)


def named_sae_tensors(latents: Iterable[SaeTables]) -> dict[str, Tensor]:
    """Return every tensor of resident SAEs, by the name that `sae_on` looks for.

    Names hold the SAE, so that one that serves several purposes at a tap lies there once.
    """
    return {
        f"{_head(each)}{name}": value
        for each in latents
        for name, value in each._asdict().items()
        if isinstance(value, Tensor)
    }


def sae_on(on: Callable[[str], Tensor], like: SaeTables) -> SaeTables:
    """Return the same SAE, its tensors found by their names."""
    return SaeTables(like.facts, **_found(on, like, _head(like)))


def _head(latent: SaeTables) -> str:
    return f"latent_{latent.facts.sae}_"


def _slot_tensors(tables: EditTables | PolicyTables) -> dict[str, Tensor]:
    """Return those that have a row for each slot or target."""
    owners: list[tuple[str, DeviceTable | PolicyTables | PolicyRows]]
    if isinstance(tables, EditTables):
        owners = [(f"{each.name}_", each.tables) for each in tables.held]
    else:
        owners = [("policy_", each) for each in (tables, tables.rows) if each is not None]
    return {
        f"{head}{name}": value
        for head, owner in owners
        for name, value in owner._asdict().items()
        if isinstance(value, Tensor)
    }


def tables_on(on: Callable[[str], Tensor], like: EditTables) -> EditTables:
    """Return the same tables, each tensor found by its name."""
    return EditTables(
        tuple(_held_on(on, each) for each in like.held),
        tuple(sae_on(on, each) for each in like.latents),
        like.width,
    )


def _held_on(on: Callable[[str], Tensor], like: Held) -> Held:
    found = {
        name: on(f"{like.name}_{name}") if isinstance(value, Tensor) else value
        for name, value in like.tables._asdict().items()
    }
    return Held(like.name, like.role, type(like.tables)(**found))


def _found(
    on: Callable[[str], Tensor], like: PolicyRows | SaeTables, head: str
) -> dict[str, Tensor]:
    return {
        name: on(f"{head}{name}")
        for name, value in like._asdict().items()
        if isinstance(value, Tensor)
    }


def policies_on(on: Callable[[str], Tensor], like: PolicyTables | None) -> PolicyTables | None:
    """Return the same policies' tables, each found by its name."""
    if like is None:
        return None
    rows = None
    if like.rows is not None:
        rows = PolicyRows(targets_K=like.rows.targets_K, **_found(on, like.rows, "policy_"))
    latents = tuple(sae_on(on, each) for each in like.latents)
    return PolicyTables(on("policy_additions_PD"), rows, latents, like.width)


def _tensor(array: FloatArray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
