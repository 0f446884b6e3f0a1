"""What the gate and our routes share in one API process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import State

from pilothouse.engine.plan.plan import Plan
from pilothouse.policy.ending_rules import Surroundings
from pilothouse.server.check.places import CheckPlaces
from pilothouse.server.reload.plan_snapshot import PlanSnapshots, PlanWatcher
from pilothouse.server.reload.reload import Reloader
from pilothouse.server.response.decisions import DecisionStore, FinalDecision
from pilothouse.server.routes import RouteEntry, RouteTable
from pilothouse.telemetry.metrics import Metrics

STATE_NAME = "pilothouse"


@dataclass(slots=True)
class ServerState:
    """Made by the endpoint plugin when the engine is up; the gate denies everything before."""

    plan_snapshots: PlanSnapshots
    served_names: tuple[str, ...]
    table: RouteTable
    plan_watcher: PlanWatcher
    reloader: Reloader
    decision_store: DecisionStore
    settler: FinalDecision
    metrics: Metrics
    engine_client: Any
    surroundings: Surroundings
    """What of the server itself decides which doors are open."""
    pins_tools: bool = False
    """vLLM makes a grammar of the tools of every request, also of those it may leave uncalled."""
    has_priorities: bool = False
    """vLLM schedules by priority, so that a check can stand behind all requests."""
    check_places: CheckPlaces = field(init=False)
    """Who holds one has a text of a check scored."""
    routes: Sequence[RouteEntry] = ()
    started_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.check_places = CheckPlaces(lambda: self.decision_store.has_requests)

    @property
    def renders_chats(self) -> bool:
        """The model has a chat template, so that a text can be brought as a user's turn."""
        return bool(self.surroundings.renders_chats)

    @property
    def plan(self) -> Plan:
        """The newest."""
        return self.plan_snapshots.newest.plan


def state_of(state: State) -> ServerState | None:
    """The gate's state of an app, once there is one."""
    found = getattr(state, STATE_NAME, None)
    return found if isinstance(found, ServerState) else None


def required_state(state: State) -> ServerState:
    """As `state_of`, behind the gate, which has let nothing through before there was one."""
    found = state_of(state)
    if found is None:
        raise RuntimeError("the gate's state is missing")
    return found
