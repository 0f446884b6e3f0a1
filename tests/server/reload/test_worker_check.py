"""Readiness: what workers say they installed, compared with the plan."""

from __future__ import annotations

from typing import Any

from pilothouse.engine.plan.plan import Plan
from pilothouse.server.reload.worker_check import installation_problems
from tests.support.servers.app_parts import tiny_plan


def told(plan: Plan, layers: list[int], **changes: Any) -> dict[str, Any]:
    """What a worker with these layers says."""
    taps = [tap.model_dump() for tap in plan.body.taps if tap.layer in layers]
    return {"installation": plan.installation, "layers": layers, "taps": taps} | changes


def test_workers_with_all_layers_and_stages_with_their_part_are_ready() -> None:
    plan = tiny_plan()
    assert {tap.layer for tap in plan.body.taps} == {1, 3}
    everything = told(plan, [0, 1, 2, 3])
    assert installation_problems(plan, [everything, everything]) == []
    assert installation_problems(plan, [told(plan, [0, 1]), told(plan, [2, 3])]) == []


def test_a_missing_stage_tap_or_installation_is_a_problem() -> None:
    plan = tiny_plan()
    assert installation_problems(plan, []) == ["no worker answered"]
    assert installation_problems(plan, [told(plan, [0, 1])]) == [
        "no worker has layers [3], which are tapped"
    ]
    [problem] = installation_problems(plan, [told(plan, [0, 1, 2, 3], taps=[])])
    assert problem == "worker 0: has 0 taps, want 2"
    [problem] = installation_problems(plan, [told(plan, [0, 1, 2, 3], installation="old")])
    assert problem.startswith("worker 0: has installation old")
