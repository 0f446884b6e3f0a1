"""What the gate and our routes share in one API process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import State

from pilothouse.engine.plan import Plan
from pilothouse.server.admission import Admission
from pilothouse.server.identity import Doorkeeper
from pilothouse.server.ledger import Ledger
from pilothouse.server.routes import RouteEntry, RouteTable
from pilothouse.server.settlement import Settler
from pilothouse.telemetry.metrics import Metrics

STATE_NAME = "pilothouse"


@dataclass(slots=True)
class GateState:
    """Made by the endpoint plugin when the engine is up; the gate denies everything before."""

    plan: Plan
    served_names: tuple[str, ...]
    table: RouteTable
    doorkeeper: Doorkeeper
    admission: Admission
    ledger: Ledger
    settler: Settler
    metrics: Metrics
    engine_client: Any
    routes: Sequence[RouteEntry] = ()
    started_at: float = field(default_factory=time.time)


def state_of(state: State) -> GateState | None:
    """The gate's state of an app, once there is one."""
    found = getattr(state, STATE_NAME, None)
    return found if isinstance(found, GateState) else None
