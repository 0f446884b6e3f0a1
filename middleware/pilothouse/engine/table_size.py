"""Memory of the edit tables, known before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilothouse.config import Limits
from pilothouse.edit.gate import GATE_WIDTH
from pilothouse.edit.layer import DIAGONAL_ROWS
from pilothouse.engine.plan import Plan
from pilothouse.engine.tap_plan import EditPlan, TapPlan
from pilothouse.types import Tap

FLOAT32_BYTES = 4
INT64_BYTES = 8
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class TapMemory:
    """What a tap has tables for, and how many bytes they take."""

    tap: Tap
    edits: EditPlan
    num_bytes: int


def table_bytes(edits: EditPlan, *, slots: int, width: int, num_targets: int) -> int:
    """Bytes of device memory of one tap's tables and resident SAEs, slot 0 included."""
    numbers = slots * width + num_targets * width
    numbers += slots * edits.rank * (2 * width + GATE_WIDTH + edits.rank)
    numbers += slots * DIAGONAL_ROWS * width * edits.diagonal + slots * edits.restores_norm
    numbers += slots * (width + 1) * edits.slerp + slots * width * edits.relative
    policy_rank = len(edits.policy_rows)
    numbers += policy_rank * (2 * width + GATE_WIDTH + policy_rank)
    numbers += sum(each.numbers for each in edits.latents)
    numbered = slots * edits.rank * (edits.statistics + bool(edits.latents))
    return FLOAT32_BYTES * numbers + INT64_BYTES * numbered


def table_memory(taps: Sequence[TapPlan], limits: Limits, *, num_targets: int) -> list[TapMemory]:
    """Every edited tap's tables, in the order of the plan."""
    slots = limits.max_programs + 1
    return [
        TapMemory(
            each.tap,
            each.edits,
            table_bytes(each.edits, slots=slots, width=each.width, num_targets=num_targets),
        )
        for each in taps
        if each.edits is not None
    ]


def planned_memory(plan: Plan) -> list[TapMemory]:
    """`table_memory` of a resolved plan."""
    body = plan.body
    return table_memory(body.taps, body.limits, num_targets=len(body.policy_targets))


def memory_problem(memory: Sequence[TapMemory], limits: Limits) -> str | None:
    """None within `limits.table_mib`, else how much is over and what to do."""
    needed = sum(each.num_bytes for each in memory)
    if needed <= limits.table_mib * MIB:
        return None
    latents = [latent for each in memory for latent in each.edits.latents]
    whole = FLOAT32_BYTES * sum(each.numbers for each in latents) / MIB
    of_saes = f", of them {whole:.0f} MiB of {len(latents)} resident SAEs" if latents else ""
    return (
        f"limits.table_mib: edit tables at {len(memory)} taps for {limits.max_programs} "
        f"programs take {needed / MIB:.0f} MiB{of_saes}, allowed are {limits.table_mib} MiB: "
        "raise table_mib, or lower max_programs, max_rank, the number of layers or "
        "taps.operators" + (", or use a narrower SAE" if latents else "")
    )
