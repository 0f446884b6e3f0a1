"""The control path of several API processes over one scheduler's revisions, with what can go wrong.

Reloaders, plan snapshots and revisions are the real ones; between them is a wire that waits and
fails as it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from pilothouse.cli.launch import plan_for
from pilothouse.config import ArtefactRef, load_config
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.plan_registry import PlanRegistry
from pilothouse.errors import ConfigError, EngineError
from pilothouse.server.admission import Admission
from pilothouse.server.auth import Authenticator
from pilothouse.server.reload import reload as reload_module
from pilothouse.server.reload.plan_snapshot import PlanSnapshot, PlanSnapshots, PlanWatcher
from pilothouse.server.reload.reload import Reloader
from pilothouse.telemetry.metrics import LabelSources, Metrics
from tests.support.servers.app_parts import KEY
from tests.support.servers.tiny_deployment import SERVED_NAME, make_tiny_house, save_nudge


class House:
    """One scheduler's revisions, and the wire to them."""

    def __init__(self, folder: Path) -> None:
        self.file = make_tiny_house(folder)
        self.folder = folder
        for name, seed in (("other", 6), ("third", 7)):
            save_nudge(folder, name, seed=seed)
        args = argparse.Namespace(
            model=str(folder / "model"), revision=None, trust_remote_code=False, hf_overrides=None
        )
        self.plan = plan_for(load_config(self.file), args)
        self.revisions = PlanRegistry(self.plan, self._push)
        self.processes: list[Process] = []
        self.installation = self.plan.installation
        self.broken: Callable[[str], bool] = lambda _: False
        self.loses: Callable[[str], bool] = lambda _: False
        self.wait: Callable[[], float] = lambda: 0.0

    def start(self, count: int) -> list[Process]:
        self.processes = [Process(self, index) for index in range(count)]
        return self.processes

    async def call(self, name: str, order: str, arguments: list[Any]) -> list[Any]:
        assert name == "pilothouse_control"
        await asyncio.sleep(self.wait())
        if self.broken(order):
            raise RuntimeError("the wire is cut")
        answer = self.revisions.handle_rpc(order, arguments)
        if isinstance(answer, Future):
            answer = await asyncio.wrap_future(answer)
        await asyncio.sleep(self.wait())
        if self.loses(order):
            raise RuntimeError("the answer is lost")
        return [answer]

    async def installed(self, _: str, timeout: float) -> list[dict[str, Any]]:
        assert timeout > 0
        taps = [tap.model_dump() for tap in self.plan.body.taps]
        layers = list(range(self.plan.body.model.num_layers))
        return [{"installation": self.installation, "layers": layers, "taps": taps}]

    def _push(self, client: int, revision: str) -> None:
        follow = self.processes[client].plan_watcher.follow
        asyncio.get_running_loop().call_later(self.wait(), follow, revision)


class Process:
    """One API process."""

    def __init__(self, house: House, index: int) -> None:
        self.house = house
        self.registry = CollectorRegistry()
        core = SimpleNamespace(call_utility_all_async=house.call, client_index=index)
        client = SimpleNamespace(engine_core=core, collective_rpc=house.installed)
        self.plan_snapshots = PlanSnapshots(self._plan_snapshot(house.plan))
        metrics = Metrics(LabelSources([SERVED_NAME]), self.registry)
        self.plan_watcher = PlanWatcher(client, self.plan_snapshots, self._plan_snapshot, metrics)
        self.reloader = Reloader(self.plan_watcher, house.file)

    @property
    def revision(self) -> str:
        return self.plan_snapshots.newest.plan.revision

    def reloads(self, result: str) -> float:
        found = self.registry.get_sample_value("pilothouse_reloads_total", {"result": result})
        assert found is not None
        return found

    @staticmethod
    def _plan_snapshot(plan: Plan) -> PlanSnapshot:
        keeper = Authenticator(plan.body.auth, (), demo=False)
        return PlanSnapshot(plan, keeper, Admission(plan, (SERVED_NAME,), KEY))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def settled(house: House, revision: str) -> None:
    async with asyncio.timeout(20):
        while {each.revision for each in house.processes} != {revision} or len(
            house.revisions.handle_rpc("told", ())["requests"]
        ) > 1:
            await asyncio.sleep(0.01)


async def test_all_processes_follow_and_the_old_plan_goes(house: House) -> None:
    first, second = house.start(2)
    await asyncio.gather(first.plan_watcher.start(), second.plan_watcher.start())
    done = await first.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    assert done.lagging == () and second.revision == done.after.revision
    await settled(house, done.after.revision)
    back = await second.reloader.delete("vectors", "swap")
    assert back.after.revision == house.plan.revision == first.revision
    assert (first.reloads("loaded"), second.reloads("loaded")) == (1, 1)


async def test_a_process_that_comes_late_starts_with_what_was_loaded(house: House) -> None:
    first, late = house.start(2)
    await first.plan_watcher.start()
    done = await first.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    assert late.revision != done.after.revision
    await late.plan_watcher.start()
    assert late.revision == done.after.revision


async def test_a_process_that_lags_is_told_of(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload_module, "FOLLOW_SECONDS", 0.2)
    first, second = house.start(2)
    await asyncio.gather(first.plan_watcher.start(), second.plan_watcher.start())
    async with second.plan_watcher.lock:
        done = await first.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
        assert done.lagging == ("1",)
        assert house.revisions.plan(second.revision) is house.plan
    await settled(house, done.after.revision)


@pytest.mark.parametrize("order", ["prepare", "activate"])
async def test_a_wire_that_is_cut_changes_nothing(house: House, order: str) -> None:
    (process,) = house.start(1)
    await process.plan_watcher.start()
    house.broken = lambda got: got == order
    with pytest.raises(EngineError, match="the wire is cut"):
        await process.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    assert process.revision == house.plan.revision == house.revisions.newest.revision
    assert (process.reloads("failed"), process.reloads("loaded")) == (1, 0)
    house.broken = lambda _: False
    await settled(house, house.plan.revision)
    done = await process.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    await settled(house, done.after.revision)


async def test_an_answer_that_is_lost_is_asked_for_again(house: House) -> None:
    first, second = house.start(2)
    await asyncio.gather(first.plan_watcher.start(), second.plan_watcher.start())
    house.loses = lambda order: order == "activate"
    with pytest.raises(EngineError, match="the answer is lost"):
        await first.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    await settled(house, house.revisions.newest.revision)
    assert "swap" in first.plan_snapshots.newest.plan.body.vectors


async def test_a_worker_with_another_installation_stops_the_reload(house: House) -> None:
    (process,) = house.start(1)
    await process.plan_watcher.start()
    house.installation = "another"
    with pytest.raises(EngineError, match="worker 0: has installation another"):
        await process.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    await settled(house, house.plan.revision)


async def test_a_profile_named_as_the_model_stops_the_reload(house: House) -> None:
    (process,) = house.start(1)
    await process.plan_watcher.start()

    def shadowed(plan: Plan) -> PlanSnapshot:
        raise ConfigError(f"a profile of {plan.revision} is a served name")

    process.plan_watcher.make_plan_snapshot = shadowed
    with pytest.raises(ConfigError, match="is a served name"):
        await process.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    await settled(house, house.plan.revision)


async def test_a_caller_who_goes_away_does_not_stop_it_half_way(house: House) -> None:
    (process,) = house.start(1)
    await process.plan_watcher.start()
    house.wait = lambda: 0.05
    other = ArtefactRef(path=Path("vectors/other"))
    caller = asyncio.create_task(process.reloader.put("vectors", "swap", other))
    await asyncio.sleep(0.06)
    caller.cancel()
    async with asyncio.timeout(20):
        while "swap" not in process.plan_snapshots.newest.plan.body.vectors:
            await asyncio.sleep(0.01)
    await settled(house, process.revision)


async def test_without_a_file_only_whole_paths_can_be_loaded(house: House) -> None:
    (process,) = house.start(1)
    await process.plan_watcher.start()
    process.reloader.file = None
    with pytest.raises(ConfigError, match="no file to read again"):
        await process.reloader.reload()
    with pytest.raises(ConfigError, match="want an absolute one"):
        await process.reloader.put("vectors", "swap", ArtefactRef(path=Path("vectors/other")))
    await process.reloader.put(
        "vectors", "swap", ArtefactRef(path=house.folder / "vectors" / "other")
    )


@pytest.mark.parametrize("seed", range(3))
async def test_no_request_is_ever_under_a_plan_that_is_gone(house: House, seed: int) -> None:
    dice = random.Random(seed)
    house.wait = lambda: dice.choice((0.0, 0.0, 0.001, 0.01))
    processes = house.start(3)
    await asyncio.gather(*(each.plan_watcher.start() for each in processes))
    over = asyncio.Event()
    served: set[str] = set()

    async def requests(process: Process) -> None:
        while not over.is_set():
            with process.plan_snapshots.admitting() as plan_snapshot:
                revision = plan_snapshot.plan.revision
                await asyncio.sleep(house.wait())
                assert (
                    house.revisions.plan(revision).body.vectors == plan_snapshot.plan.body.vectors
                )
                house.revisions.add_request(revision)
                served.add(revision)
                await asyncio.sleep(house.wait())
            await asyncio.sleep(house.wait())
            house.revisions.remove_request(revision)

    async def reloads(process: Process, number: int) -> None:
        for _ in range(6):
            name = f"n{number}"
            if name in process.plan_snapshots.newest.plan.body.vectors and dice.random() < 0.5:
                await process.reloader.delete("vectors", name)
            else:
                path = Path("vectors") / dice.choice(("nudge", "other", "third"))
                await process.reloader.put("vectors", name, ArtefactRef(path=path))

    clients = [asyncio.create_task(requests(each)) for each in processes for _ in range(3)]
    changes = [reloads(each, number) for number, each in enumerate(processes)]
    await asyncio.gather(*changes)
    over.set()
    await asyncio.gather(*clients)
    assert len(served) > 5
    await settled(house, house.revisions.newest.revision)
    names = set(house.revisions.newest.body.vectors) - {"nudge"}
    kept = {name for each in processes for name in each.plan_snapshots.newest.plan.body.vectors}
    assert names == kept - {"nudge"}
    raw = yaml.safe_load(house.file.read_text())
    assert (await processes[0].reloader.reload()).after.body.vectors.keys() == raw["vectors"].keys()
