"""Plans of the real model's probes: nothing that is fitted is tested."""

from __future__ import annotations

from itertools import product

import pytest

from pilothouse.demo.probe_plans import PLANS, Part, Plan
from pilothouse.demo.texts.sets import SETS

every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def shared(one: Part, other: Part) -> bool:
    """Whether two parts can hold the same group."""
    return one.name == other.name and max(one.low, other.low) < min(one.high, other.high)


@every_plan
def test_fit_calibration_and_test_share_no_group(plan: Plan) -> None:
    by_use: dict[str, list[Part]] = {"fit": [], "calibration": [], "test": []}
    for use, part in plan.uses():
        by_use[use].append(part)
    for one, other in (("fit", "calibration"), ("fit", "test"), ("calibration", "test")):
        clashes = [each for each in product(by_use[one], by_use[other]) if shared(*each)]
        assert clashes == []


@every_plan
def test_a_source_can_be_left_out(plan: Plan) -> None:
    assert len(plan.fitted) >= 2
    parts = [part for each in plan.fitted.values() for part in each]
    assert len(set(parts)) == len(parts)


@every_plan
def test_every_part_is_of_a_known_set_and_not_empty(plan: Plan) -> None:
    for _, part in plan.uses():
        assert part.name in SETS
        assert 0.0 <= part.low < part.high <= 1.0


@pytest.mark.parametrize("name", ["misuse", "toxicity", "injection"])
def test_no_prompt_probe_is_tested_on_a_source_that_it_was_fitted_on(name: str) -> None:
    """Except for everyday texts, which are dealt out by group: they are what must not fire."""
    plan = PLANS[name]
    fitted = {part.name for each in plan.fitted.values() for part in each}
    tested = {part.name for each in plan.tests.values() for part in each}
    assert fitted & tested == set()
