"""Is every worker what the plan says? Asked for readiness, and before a plan is followed by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.engine.plan.plan import Plan

INSTALLED_CALL = "pilothouse_installed"
READY_SECONDS = 10.0


async def ask_workers(engine_client: Any, plan: Plan) -> tuple[list[str], int]:
    """What is wrong, worker by worker, and how many of them answered."""
    try:
        workers = await engine_client.collective_rpc(INSTALLED_CALL, timeout=READY_SECONDS)
    except Exception as error:
        return [f"the workers did not answer: {type(error).__name__}: {error}"], 0
    return installation_problems(plan, workers), len(workers)


def installation_problems(plan: Plan, workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with what workers say they installed; each has the taps of its own layers."""
    problems = [] if workers else ["no worker answered"]
    reached: set[int] = set()
    for rank, told in enumerate(workers):
        if told.get("installation") != plan.installation:
            problems.append(
                f"worker {rank}: has installation {told.get('installation')}, want "
                f"{plan.installation}"
            )
        layers = told.get("layers", ())
        reached |= set(layers)
        want = sum(tap.layer in layers for tap in plan.body.taps)
        if len(told.get("taps", ())) != want:
            problems.append(f"worker {rank}: has {len(told.get('taps', ()))} taps, want {want}")
    missing = sorted({tap.layer for tap in plan.body.taps} - reached)
    if workers and missing:
        problems.append(f"no worker has layers {missing}, which are tapped")
    return problems
