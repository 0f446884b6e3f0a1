"""A revision as an API process uses it, and how the process stays at the newest one.

Plan, authenticator and admission are exchanged as one. An engine pushes the revision of a newer
plan; the process fetches the plan, switches, and lets go of the one before when no request of its
own can carry it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pilothouse.edits.program import forget_programs
from pilothouse.engine.plan.plan import Plan, Wire
from pilothouse.engine.vllm.rpc import ask_engines, client_index
from pilothouse.errors import ConfigError
from pilothouse.log_text import log_lines
from pilothouse.server.admission import Admission
from pilothouse.server.auth import Authenticator
from pilothouse.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanSnapshot:
    """One request is looked at by one plan snapshot from its first check to its last."""

    plan: Plan
    authenticator: Authenticator
    admission: Admission


class PlanSnapshots:
    """The newest plan snapshot, and how many requests of this process are under which revision."""

    def __init__(self, first: PlanSnapshot) -> None:
        self.newest = first
        self._num_requests: Counter[str] = Counter()
        self._on_unused: Callable[[str], None] = lambda _: None

    def on_unused(self, call: Callable[[str], None]) -> None:
        """Have `call(revision)` run when no request can carry an older revision any more."""
        self._on_unused = call

    @contextmanager
    def admitting(self) -> Iterator[PlanSnapshot]:
        """The newest plan snapshot, kept for as long as the request under it lives."""
        plan_snapshot = self.newest
        revision = plan_snapshot.plan.revision
        self._num_requests[revision] += 1
        try:
            yield plan_snapshot
        finally:
            self._num_requests[revision] -= 1
            self._tell_if_unused(revision)

    def switch(self, plan_snapshot: PlanSnapshot) -> None:
        """From now on requests are admitted under this one."""
        before, self.newest = self.newest, plan_snapshot
        self._tell_if_unused(before.plan.revision)

    def unused(self, revision: str) -> bool:
        """No request is under it, and none will be."""
        return revision != self.newest.plan.revision and not self._num_requests[revision]

    def _tell_if_unused(self, revision: str) -> None:
        if self.unused(revision):
            del self._num_requests[revision]
            self._on_unused(revision)


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
