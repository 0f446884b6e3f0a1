"""Memory of the edit tables, known before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pilothouse.edits.gate import GATE_WIDTH
from pilothouse.engine.ops import held_kinds
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.tap_plan import EditPlan, ResidentSae, TapPlan
from pilothouse.engine.worker.device_table import FLOAT32_BYTES, INT64_BYTES
from pilothouse.limits import Limits
from pilothouse.types import Tap

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class TapMemory:
    """What a tap has tables for, which SAEs lie there, and how many bytes all of it takes.

    Hidden layers of probes are counted; rows of probes, which are few and small, are not.
    """

    tap: Tap
    edits: EditPlan
    resident_saes: tuple[ResidentSae, ...]
    num_bytes: int


def table_bytes(edits: EditPlan, *, slots: int, width: int, num_targets: int) -> int:
    """Return how many bytes one tap's tables and resident SAEs take, slot 0 included."""
    num_bytes = slots * sum(kind.slot_bytes(edits, width) for kind in held_kinds(edits))
    policy_rank = len(edits.policy_rows)
    numbers = num_targets * width + _numbers(edits.latents)
    numbers += policy_rank * (2 * width + GATE_WIDTH + policy_rank)
    counts = any(each.statistic for each in edits.policy_rows)
    numbered = policy_rank * (counts + bool(edits.policy_latents))
    return num_bytes + FLOAT32_BYTES * numbers + INT64_BYTES * numbered


def table_memory(taps: Sequence[TapPlan], limits: Limits, *, num_targets: int) -> list[TapMemory]:
    """Return the memory of every tap with edits, SAEs or hidden layers, in the plan's order."""
    slots = limits.max_programs + 1
    found = []
    for each in taps:
        edits = each.edits or EditPlan()
        if each.edits is None and not each.resident_saes and not each.hidden:
            continue
        num_bytes = FLOAT32_BYTES * (_numbers(each.resident_saes) - _numbers(edits.latents))
        num_bytes += FLOAT32_BYTES * each.hidden_numbers
        if each.edits is not None:
            num_bytes += table_bytes(edits, slots=slots, width=each.width, num_targets=num_targets)
        found.append(TapMemory(each.tap, edits, each.resident_saes, num_bytes))
    return found


def planned_memory(plan: Plan) -> list[TapMemory]:
    """`table_memory` of a resolved plan."""
    body = plan.body
    return table_memory(body.taps, body.limits, num_targets=len(body.policy_targets))


def memory_problem(memory: Sequence[TapMemory], limits: Limits) -> str | None:
    """None within `limits.table_mib`, else how much is over and what to do."""
    needed = sum(each.num_bytes for each in memory)
    if needed <= limits.table_mib * MIB:
        return None
    latents = [latent for each in memory for latent in each.resident_saes]
    whole = FLOAT32_BYTES * _numbers(latents) / MIB
    of_saes = f", of them {whole:.0f} MiB of {len(latents)} resident SAEs" if latents else ""
    return (
        f"limits.table_mib: edit tables at {len(memory)} taps for {limits.max_programs} "
        f"programs take {needed / MIB:.0f} MiB{of_saes}, allowed are {limits.table_mib} MiB: "
        "raise table_mib, or lower max_programs, max_rank, the number of layers or "
        "taps.operators" + (", or use a narrower SAE" if latents else "")
    )


def _numbers(latents: Iterable[ResidentSae]) -> int:
    return sum(each.numbers for each in latents)
