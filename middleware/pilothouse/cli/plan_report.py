"""Reports the plan of a model: its taps, what each is reserved for, and the memory."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from pilothouse.cli.launch import plan_for
from pilothouse.config import PilothouseConfig
from pilothouse.edits.ops import known_flags
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.table_size import MIB, memory_problem, planned_memory
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.types import PROJECTION_SITES

UNLIMITED_MIB = 1 << 40
"""So that a plan over its limit can be shown all the same."""


def _shown() -> dict[str, str]:
    """Return the flags that are shown, each with its word, in the order in which tables apply."""
    return {name: flag.shown for name, flag in known_flags().items() if flag.shown is not None}


def plan_report(config: PilothouseConfig, model: str, problems: list[str]) -> dict[str, Any]:
    """Return the plan for a model, as plain data; tables over `limits.table_mib` are a problem.

    Raises:
        ConfigError: the model's configuration cannot be read, or ours does not fit it.
        PolicyError: a policy that names what is not loaded.
    """
    unlimited = config.limits.model_copy(update={"table_mib": UNLIMITED_MIB})
    plan = plan_for(config.model_copy(update={"limits": unlimited}), Namespace(model=model))
    problem = memory_problem(planned_memory(plan), config.limits)
    if problem is not None:
        problems.append(problem)
    served = plan_for(config, Namespace(model=model)) if problem is None else None
    return {
        "revision": served.revision if served is not None else None,
        "model": plan.body.model.model_dump(),
        "taps": [f"layer {tap.layer} {tap.site}" for tap in plan.body.taps],
        "read_columns": plan.body.num_columns,
        "signals": [spec.key for spec in plan.signals],
        "tables": tables_report(plan, config.limits.table_mib),
    }


def tables_report(plan: Plan, table_mib: int) -> dict[str, Any]:
    """Return the edit tables per tap and in total, against the limit."""
    memory, taps = planned_memory(plan), plan.taps()
    total = sum(each.num_bytes for each in memory)
    return {
        "slots": plan.body.limits.max_programs + 1,
        "policy_programs": len(plan.body.policy_targets),
        "taps": [
            {
                "layer": each.tap.layer,
                "site": each.tap.site,
                "width": taps[each.tap].width,
                **_reserved(each.edits),
                "saes": len(each.resident_saes),
                "hidden_layers": len(taps[each.tap].hidden),
                "mib": round(each.num_bytes / MIB, 3),
            }
            for each in memory
        ],
        "total_mib": round(total / MIB, 3),
        "table_mib": table_mib,
    }


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Return the lines to print of a plan."""
    model, tables = plan["model"], plan["tables"]
    return [
        f"plan {plan['revision'] or '(over its limit)'} for {model['model_id']}, "
        f"{model['num_layers']} layers, width {model['d_model']}:",
        f"  taps: {', '.join(plan['taps']) or 'none'}",
        f"  read columns: {plan['read_columns']}",
        f"  signals: {', '.join(plan['signals']) or 'none'}",
        f"edit tables, {tables['slots']} slots (limits.max_programs, and the empty one), "
        f"{tables['policy_programs']} programs of policies:",
        *(_tap_line(each) for each in tables["taps"]),
        f"  total {tables['total_mib']:.3f} MiB; limits.table_mib allows {tables['table_mib']}",
        "  each tensor-parallel rank holds all of this, but its share alone at "
        f"{' and '.join(sorted(PROJECTION_SITES))}",
    ]


def _reserved(edits: EditPlan) -> dict[str, Any]:
    flags = {name: name in edits.tables for name in _shown()}
    return {"rank": edits.rank, **flags, "policy_rows": len(edits.policy_rows)}


def _tap_line(tap: dict[str, Any]) -> str:
    has = ["additions", *(told for name, told in _shown().items() if tap[name])]
    has += [f"{tap['rank']} rows"] if tap["rank"] else []
    has += [f"{tap['policy_rows']} rows of policies"] if tap["policy_rows"] else []
    has += [f"{tap['saes']} resident SAEs"] if tap["saes"] else []
    has += [f"{tap['hidden_layers']} hidden layers of probes"] if tap["hidden_layers"] else []
    return (
        f"  layer {tap['layer']} {tap['site']}, width {tap['width']}: {tap['mib']:.3f} MiB; "
        f"{', '.join(has)}"
    )
