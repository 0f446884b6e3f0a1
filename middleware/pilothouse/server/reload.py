"""Reload in an API process: resolve, have the engines prepare, activate, switch, and follow others.

Only `prepare` can fail, and it changes nothing: from the moment a plan is active every engine takes
requests under it and under the one before, so it does not matter when which process switches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pilothouse.config import PilothouseConfig, load_config
from pilothouse.engine.compat.control import ask_engines, client_index
from pilothouse.engine.plan import Plan
from pilothouse.engine.succession import Changes, changes, following_plan
from pilothouse.errors import ConfigError, EngineError, PilothouseError
from pilothouse.server.edition import Edition, Editions
from pilothouse.server.readiness import ask_workers
from pilothouse.server.vector_change import with_vector, without_vector
from pilothouse.telemetry.metrics import Metrics, ReloadResult

logger = logging.getLogger("vllm.pilothouse.reload")
"""Under vLLM's name, because vLLM shows its own loggers alone."""

PREPARE_SECONDS = 60.0
FOLLOW_SECONDS = 10.0
ATTEMPTS = 8
"""How often a reload starts anew because another process was faster."""

Wanted = Callable[[PilothouseConfig], PilothouseConfig]
"""The running configuration to the one that is asked for."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did."""

    before: Plan
    after: Plan
    changes: Changes
    seconds: float
    lagging: tuple[str, ...] = ()
    """API processes that had not switched when the answer was made; they will."""


class Reloader:
    """The control path of one API process; `file` is what the server was started with."""

    def __init__(
        self,
        engine_client: Any,
        editions: Editions,
        make_edition: Callable[[Plan], Edition],
        metrics: Metrics,
        file: Path | None,
    ) -> None:
        self.file = file
        self._engine_client = engine_client
        self._index = client_index(engine_client)
        self._editions = editions
        self._make_edition = make_edition
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        editions.on_unused(self._let_go_soon)

    async def start(self) -> None:
        """Make this process known to the engines, and take over what was loaded before it came."""
        async with self._lock:
            await self._catch_up()

    def follow(self, revision: str) -> None:
        """The engines have a newer plan."""
        if revision != self._editions.newest.plan.revision:
            self._soon(self.start())

    def reload_soon(self) -> None:
        """Read the file again, on a signal: whoever sent it reads the log."""
        self._soon(self._quiet_reload())

    async def reload(self) -> Reloaded:
        """Read the file of the start again.

        Raises:
            ConfigError: there is none, or it cannot be followed; nothing has changed.
            EngineError: an engine did not take it; nothing has changed.
        """
        file = self.file

        def wanted(_: PilothouseConfig) -> PilothouseConfig:
            if file is None:
                raise ConfigError(
                    "this server was started without --pilothouse-config, so there is no file to "
                    "read again: load vectors by PUT /pilothouse/v1/vectors/NAME"
                )
            return load_config(file)

        return await self._change(wanted)

    async def put_vector(self, name: str, path: Path) -> Reloaded:
        """Load a vector, or another in its place, until the next restart or reload.

        Raises:
            ConfigError, EngineError: as `reload`.
        """
        file = self.file

        def wanted(config: PilothouseConfig) -> PilothouseConfig:
            if file is None and not path.is_absolute():
                raise ConfigError(
                    f"path: got {path}, want an absolute one: there is no pilothouse.yaml that it "
                    "could be relative to"
                )
            return with_vector(config, name, path if file is None else file.parent / path)

        return await self._change(wanted)

    async def delete_vector(self, name: str) -> Reloaded:
        """Let go of a vector, until the next restart or reload.

        Raises:
            ConfigError, EngineError: as `reload`.
        """
        return await self._change(lambda config: without_vector(config, name))

    async def told(self) -> dict[str, Any]:
        """What the first engine knows of revisions, processes and requests.

        Raises:
            EngineError: it does not answer.
        """
        answers = await ask_engines(self._engine_client, "told")
        told: dict[str, Any] = answers[0]
        return told

    async def _change(self, wanted: Wanted) -> Reloaded:
        # Shielded: a caller who goes away must not stop a reload half-way.
        return await asyncio.shield(self._soon(self._counted(wanted)))

    async def _counted(self, wanted: Wanted) -> Reloaded:
        started = time.monotonic()
        try:
            async with self._lock:
                before, after = await self._replace(wanted)
        except PilothouseError as error:
            result: ReloadResult = "refused" if isinstance(error, ConfigError) else "failed"
            self._metrics.reload(result)
            logger.error("reload %s, nothing has changed: %s", result, error)
            raise
        self._metrics.reload("unchanged" if before is after else "loaded")
        lagging = await self._wait_for_others(after.revision)
        done = Reloaded(before, after, changes(before, after), time.monotonic() - started, lagging)
        logger.info(
            "reload: revision %s -> %s: %s (%.2f s)",
            before.revision, after.revision, done.changes, done.seconds,
        )  # fmt: skip
        return done

    async def _replace(self, wanted: Wanted) -> tuple[Plan, Plan]:
        def resolved(running: Plan) -> Plan:
            return following_plan(running, wanted(running.config))

        for _ in range(ATTEMPTS):
            before = self._editions.newest.plan
            after = await asyncio.to_thread(resolved, before)
            if after.revision == before.revision:
                return before, before
            edition = self._make_edition(after)
            await self._prepare(after)
            if await self._activate(before, after):
                self._switch(edition)
                await self._catch_up()
                return before, after
            await self._catch_up()
        raise EngineError(f"other reloads were faster {ATTEMPTS} times: try again")

    async def _prepare(self, plan: Plan) -> None:
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                refusals = await self._ask("prepare", plan.to_wire())
                problems, _ = await ask_workers(self._engine_client, plan)
        except (EngineError, TimeoutError) as error:
            refusals, problems = [], [f"{type(error).__name__}: {error}"]
        problems += [f"engine {i}: {refusal}" for i, refusal in enumerate(refusals) if refusal]
        if problems:
            self._let_go_soon(plan.revision)
            raise EngineError("\n".join(problems))

    async def _activate(self, before: Plan, after: Plan) -> bool:
        if all(await self._ask("activate", before.revision, after.revision)):
            return True
        await self._ask("release", after.revision)
        return False

    async def _catch_up(self) -> None:
        """Take the engines' newest plan until this process has it; then they count on that."""
        while True:
            wire = (await self._ask("newest", self._editions.newest.plan.revision))[0]
            if wire is None:
                return
            plan = await asyncio.to_thread(Plan.from_wire, wire)
            before = self._editions.newest.plan.revision
            self._switch(self._make_edition(plan))
            logger.info("reload: followed from revision %s to %s", before, plan.revision)

    def _switch(self, edition: Edition) -> None:
        self._editions.switch(edition)
        body = edition.plan.body
        self._metrics.loaded(edition.plan.revision, profiles=body.profiles, vectors=body.vectors)

    async def _wait_for_others(self, revision: str) -> tuple[str, ...]:
        deadline = time.monotonic() + FOLLOW_SECONDS
        while True:
            told = await self.told()
            lagging = tuple(each for each, runs in told["processes"].items() if runs != revision)
            if not lagging or told["newest"] != revision:
                return ()
            if time.monotonic() > deadline:
                return lagging
            await asyncio.sleep(0.02)

    def _let_go_soon(self, revision: str) -> None:
        self._soon(self._let_go(revision))

    async def _let_go(self, revision: str) -> None:
        async with self._lock:
            if self._editions.unused(revision):
                await self._ask("release", revision)

    async def _ask(self, order: str, *arguments: Any) -> list[Any]:
        return await ask_engines(self._engine_client, order, self._index, *arguments)

    async def _quiet_reload(self) -> None:
        with suppress(PilothouseError):  # it was logged
            await self.reload()

    def _soon(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConfigError):
            logger.error("reload: %s: %s", type(error).__name__, error)
