"""Keeps an API process at the newest plan that the engines have.

An engine pushes the revision of a newer plan; the process fetches the plan, switches, and lets go
of the one before when no request of its own can carry it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pilothouse.edits.program import forget_programs
from pilothouse.engine.plan.plan import Plan, Wire
from pilothouse.engine.vllm.rpc import ask_engines, client_index
from pilothouse.errors import ConfigError
from pilothouse.log_text import log_lines
from pilothouse.server.reload.plan_snapshot import PlanSnapshot, PlanSnapshots
from pilothouse.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PlanWatcher:
    """Owner of an API process's switches; whoever holds `lock` is alone with them."""

    def __init__(
        self,
        engine_client: Any,
        plan_snapshots: PlanSnapshots,
        make_plan_snapshot: Callable[[Plan], PlanSnapshot],
        metrics: Metrics,
    ) -> None:
        self.lock = asyncio.Lock()
        self.engine_client = engine_client
        self.make_plan_snapshot = make_plan_snapshot
        self.metrics = metrics
        self._index = client_index(engine_client)
        self._plan_snapshots = plan_snapshots
        self._tasks: set[asyncio.Task[Any]] = set()
        plan_snapshots.on_unused(self.let_go_soon)

    @property
    def plan(self) -> Plan:
        """The newest plan of this process."""
        return self._plan_snapshots.newest.plan

    async def start(self) -> None:
        """Make this process known to the engines, and take over what was loaded before it came."""
        async with self.lock:
            await self.catch_up()

    def follow(self, revision: str) -> None:
        """The engines have a newer plan."""
        if revision != self.plan.revision:
            self.soon(self.start())

    async def catch_up(self) -> None:
        """Take the engines' newest plan until this process has it; then they count on that."""
        while True:
            wire = (await self.ask("newest", self.plan.revision))[0]
            if wire is None:
                return
            plan = await asyncio.to_thread(_read, wire)
            before = self.plan.revision
            self.switch(self.make_plan_snapshot(plan))
            # What changed is told once, by the process that was asked for the reload.
            logger.debug("reload: followed from revision %s to %s", before, plan.revision)

    def switch(self, plan_snapshot: PlanSnapshot) -> None:
        """Admit requests under this plan snapshot from now on."""
        self._plan_snapshots.switch(plan_snapshot)
        body = plan_snapshot.plan.body
        self.metrics.loaded(
            plan_snapshot.plan.revision, profiles=body.profiles, vectors=(*body.vectors, *body.saes)
        )

    async def ask(self, order: str, *arguments: Any) -> list[Any]:
        """Every engine's answer to an order of this process.

        Raises:
            EngineError: one of them did not answer.
        """
        return await ask_engines(self.engine_client, order, self._index, *arguments)

    async def told(self) -> dict[str, Any]:
        """What the first engine knows of revisions, processes and requests.

        Raises:
            EngineError: it does not answer.
        """
        answers = await ask_engines(self.engine_client, "told")
        told: dict[str, Any] = answers[0]
        return told

    def let_go_soon(self, revision: str) -> None:
        """Tell the engines that this process needs a revision no more, if that is so by then."""
        self.soon(self._let_go(revision))

    def soon(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run beside the requests; what goes wrong is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _let_go(self, revision: str) -> None:
        async with self.lock:
            if self._plan_snapshots.unused(revision):
                forget_programs()
                await self.ask("release", revision)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConfigError):
            logger.error("reload: %s: %s", type(error).__name__, log_lines(error))


def _read(wire: Wire) -> Plan:
    plan = Plan.from_wire(wire)
    _ = plan.sources  # made here, and not by the first request
    return plan
