"""Reload in an API process: resolve, have the engines prepare, activate, switch, wait for others.

Only `prepare` can fail, and it changes nothing: from the moment a plan is active every engine takes
requests under it and under the one before, so it does not matter when which process switches.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pilothouse.config import (
    ArtefactRef,
    HubPlace,
    PilothouseConfig,
    SaeRef,
    load_config,
    parse_config,
)
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.update import Changes, changes, following_plan
from pilothouse.errors import ConfigError, EngineError, PilothouseError
from pilothouse.log_text import log_lines
from pilothouse.server.reload.plan_snapshot import PlanWatcher
from pilothouse.server.reload.worker_check import ask_workers
from pilothouse.telemetry.metrics import ReloadResult

logger = logging.getLogger(__name__)


ORIGIN = "pilothouse.yaml with this change"

Section = Literal["vectors", "saes"]
"""What can be loaded one by one."""


def with_loaded(
    config: PilothouseConfig, section: Section, name: str, entry: dict[str, Any]
) -> PilothouseConfig:
    """Load an entry of a section under a name.

    Raises:
        ConfigError: a name that cannot be one, or a field that the entry cannot have.
    """
    return _with(config, section, {**_entries(config, section), name: entry})


def without_loaded(config: PilothouseConfig, section: Section, name: str) -> PilothouseConfig:
    """Let go of a vector or SAE.

    Raises:
        ConfigError: it is not loaded, or a profile steers with it.
    """
    entries = _entries(config, section)
    if name not in entries:
        raise ConfigError(f"{section}.{name}: is not loaded; loaded are {sorted(entries)}")
    users = sorted(
        profile
        for profile, each in config.profiles.items()
        if any(term.name == name for term in each.steer)
    )
    if users:
        raise ConfigError(
            f"{section}.{name}: cannot go, profiles {', '.join(users)} steer with it: take them "
            "out of pilothouse.yaml and reload"
        )
    del entries[name]
    return _with(config, section, entries)


def _entries(config: PilothouseConfig, section: Section) -> dict[str, Any]:
    return {name: ref.model_dump() for name, ref in getattr(config, section).items()}


def _with(config: PilothouseConfig, section: Section, entries: dict[str, Any]) -> PilothouseConfig:
    return parse_config(config.model_dump() | {section: entries}, folder=Path(), origin=ORIGIN)


PREPARE_SECONDS = 60.0
FOLLOW_SECONDS = 10.0
CONTEND_SECONDS = 60.0
"""How long a reload starts anew because other processes were faster."""
PAUSE_SECONDS = 0.05

Wanted = Callable[[PilothouseConfig], PilothouseConfig]
"""The running configuration to the one that is asked for."""


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
    """What an operator can ask of one API process; `file` is what the server was started with."""

    def __init__(self, plan_watcher: PlanWatcher, file: Path | None) -> None:
        self.file = file
        self._plan_watcher = plan_watcher

    async def reload(self) -> Reloaded:
        """Read the file of the start again.

        Raises:
            ConfigError: there is none, or it cannot be followed; nothing has changed.
            EngineError: an engine did not take it; says what that means.
        """
        file = self.file

        def wanted(_: PilothouseConfig) -> PilothouseConfig:
            if file is None:
                raise ConfigError(
                    "this server was started without --pilothouse-config, so there is no file to "
                    "read again: load vectors by PUT /pilothouse/v1/vectors/NAME, SAEs by PUT "
                    "/pilothouse/v1/saes/NAME"
                )
            return load_config(file)

        return await self._change(wanted)

    def reload_soon(self) -> None:
        """Read the file again, on a signal: whoever sent it reads the log."""

        async def quiet() -> None:
            with suppress(PilothouseError):  # it was logged
                await self.reload()

        self._plan_watcher.soon(quiet())

    async def put(self, section: Section, name: str, ref: ArtefactRef | SaeRef) -> Reloaded:
        """Load a vector or SAE, or another in its place, until the next restart or reload.

        Raises:
            ConfigError, EngineError: as `reload`.
        """
        file, path = self.file, ref.path

        def wanted(config: PilothouseConfig) -> PilothouseConfig:
            if isinstance(path, HubPlace):
                return with_loaded(config, section, name, ref.model_dump())
            if file is None and not path.is_absolute():
                raise ConfigError(
                    f"path: got {path}, want an absolute one: there is no pilothouse.yaml that it "
                    "could be relative to"
                )
            entry = ref.model_dump() | {"path": path if file is None else file.parent / path}
            return with_loaded(config, section, name, entry)

        return await self._change(wanted)

    async def delete(self, section: Section, name: str) -> Reloaded:
        """Let go of a vector or SAE, until the next restart or reload.

        Raises:
            ConfigError, EngineError: as `reload`.
        """
        return await self._change(lambda config: without_loaded(config, section, name))

    async def _change(self, wanted: Wanted) -> Reloaded:
        # Shielded: a caller who goes away must not stop a reload half-way.
        return await asyncio.shield(self._plan_watcher.soon(self._counted(wanted)))

    async def _counted(self, wanted: Wanted) -> Reloaded:
        started = time.monotonic()
        try:
            async with self._plan_watcher.lock:
                before, after = await self._replace(wanted)
        except PilothouseError as error:
            result: ReloadResult = "refused" if isinstance(error, ConfigError) else "failed"
            self._plan_watcher.metrics.reload(result)
            logger.error("reload %s: %s", result, log_lines(error))
            raise
        self._plan_watcher.metrics.reload("unchanged" if before is after else "loaded")
        lagging = await self._wait_for_others(after.revision)
        done = Reloaded(before, after, changes(before, after), time.monotonic() - started, lagging)
        logger.info(
            "reload: revision %s -> %s: %s (%.2f s)",
            before.revision,
            after.revision,
            log_lines(done.changes),
            done.seconds,
        )
        return done

    async def _replace(self, wanted: Wanted) -> tuple[Plan, Plan]:
        def resolved(running: Plan) -> Plan:
            return following_plan(running, wanted(running.config))

        deadline = time.monotonic() + CONTEND_SECONDS
        while time.monotonic() < deadline:
            before = self._plan_watcher.plan
            after = await asyncio.to_thread(resolved, before)
            if after.revision == before.revision:
                return before, before
            plan_snapshot = self._plan_watcher.make_plan_snapshot(after)
            await self._prepare(after)
            if await self._activate(before, after):
                self._plan_watcher.switch(plan_snapshot)
                await self._plan_watcher.catch_up()
                return before, after
            await self._plan_watcher.catch_up()
            # For long enough, now and then, that whoever is at it is through.
            await asyncio.sleep(random.expovariate(1 / PAUSE_SECONDS))
        raise EngineError(
            f"nothing has changed: other reloads were faster for {CONTEND_SECONDS:g} s; try again"
        )

    async def _prepare(self, plan: Plan) -> None:
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                refusals = await self._plan_watcher.ask("prepare", plan.revision, plan.to_wire())
                problems, _ = await ask_workers(self._plan_watcher.engine_client, plan)
        except (EngineError, TimeoutError) as error:
            refusals, problems = [], [f"{type(error).__name__}: {error}"]
        problems += [f"engine {i}: {refusal}" for i, refusal in enumerate(refusals) if refusal]
        if problems:
            self._plan_watcher.let_go_soon(plan.revision)
            raise EngineError("\n".join(["nothing has changed:", *problems]))

    async def _activate(self, before: Plan, after: Plan) -> bool:
        """False where another reload was faster."""
        try:
            if all(await self._plan_watcher.ask("activate", before.revision, after.revision)):
                return True
            await self._plan_watcher.ask("release", after.revision)
        except EngineError as error:
            self._plan_watcher.soon(self._plan_watcher.start())
            self._plan_watcher.let_go_soon(after.revision)
            raise EngineError(
                f"{error}; whether revision {after.revision} was activated is shown by "
                "/pilothouse/v1/status"
            ) from error
        return False

    async def _wait_for_others(self, revision: str) -> tuple[str, ...]:
        deadline = time.monotonic() + FOLLOW_SECONDS
        while True:
            told = await self._plan_watcher.told()
            lagging = tuple(each for each, runs in told["processes"].items() if runs != revision)
            if not lagging or told["newest"] != revision:
                return ()
            if time.monotonic() > deadline:
                return lagging
            await asyncio.sleep(0.02)
