"""The worst requests of the stall table are at the limits, and no limit is forgotten."""

from __future__ import annotations

import pytest

from pilothouse.errors import RequestError
from pilothouse.limits import EngineSize, Limits, RequestLimits
from pilothouse.server.body import parsed
from stall import good
from stall_kinds import Attack, Target, attacks

CONTEXT = 1024
LIMITS = Limits().served(EngineSize(CONTEXT, 32))
FOUND = list(attacks(Target("demo", CONTEXT, LIMITS.model_dump() | {"max_programs": 64}, "calm")))
UNMEASURED = {"max_positions", "max_edit_values", "max_segments", "max_probes"}
"""Reached only on a server with larger or more artefacts than the demo, or a longer context."""


@pytest.mark.parametrize("attack", FOUND, ids=lambda each: each.kind)
def test_the_worst_of_a_kind_is_within_the_limits(attack: Attack) -> None:
    assert len(attack.body) <= LIMITS.max_body_bytes
    if attack.bound == "all":
        with pytest.raises(RequestError, match=r"limits\."):
            parsed(attack.body, LIMITS)
    else:
        assert parsed(attack.body, LIMITS)["model"] == "demo"


def test_every_limit_has_its_worst_request() -> None:
    bounds = {each.bound for each in FOUND}
    assert RequestLimits.model_fields.keys() - bounds == UNMEASURED


def test_the_goal_is_for_every_kind_and_for_memory() -> None:
    rows = [{"over_ms": 99.0}, {"over_ms": -3.0}]
    report = {"memory_mib": {"before": 100.0, "after": 104.0}, "rows": rows}
    assert good(report)
    assert not good(report | {"memory_mib": {"before": 100.0, "after": 106.0}})
    assert not good(report | {"rows": [*rows, {"over_ms": 101.0}]})
