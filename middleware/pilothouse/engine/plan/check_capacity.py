"""Does a program fit what the taps have tables for?"""

from __future__ import annotations

from collections.abc import Mapping

from pilothouse.edits.program import Program
from pilothouse.engine.plan.tap_plan import EditPlan, TapPlan
from pilothouse.types import Tap


def unfit(program: Program, taps: Mapping[Tap, TapPlan]) -> str | None:
    """What is missing and what to do; None where everything is there."""
    for tap, edit in program.layers.items():
        plan = taps.get(tap)
        if plan is None or plan.edits is None:
            return f"layer {tap.layer} has no edit table at {tap.site}: add it to `taps`"
        missing = plan.edits.lacks(EditPlan.needed_by(edit))
        if missing is not None:
            return (
                f"at layer {tap.layer} the edit needs {missing}; list the operator under "
                "`taps.operators`, or raise `limits.max_rank`"
            )
    return None
