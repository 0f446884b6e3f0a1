"""Revisions: a plan stays as long as somebody can seal under it or a request runs under it."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.plan_registry import PlanRegistry
from pilothouse.errors import RequestError
from tests.support.engines.catalogs import probe, readout, vector
from tests.support.engines.harness import make_plan, random_rows

FIRST = make_plan(Catalog(vectors={"v": vector("v", (2,))}))


def plan_watcher(seed: int) -> Plan:
    loaded = Catalog(vectors={"v": vector("v", (2,), seed=seed)})
    return resolve_plan(FIRST.config, loaded, (), FIRST.body.model, running=FIRST)


class House:
    """Revisions, and what was pushed."""

    def __init__(self, *clients: int) -> None:
        self.pushed: list[tuple[int, str]] = []
        self.revisions = PlanRegistry(FIRST, lambda *told: self.pushed.append(told))
        for client in clients:
            assert self.ask("newest", client, FIRST.revision) is None

    def ask(self, order: str, *arguments: object) -> object:
        answer = self.revisions.handle_rpc(order, arguments)
        return answer.result() if isinstance(answer, Future) else answer

    def prepare(self, client: int, plan: Plan) -> str:
        return str(self.ask("prepare", client, plan.revision, plan.to_wire()))

    def load(self, client: int, plan: Plan, base: Plan = FIRST) -> bool:
        assert self.prepare(client, plan) == ""
        return bool(self.ask("activate", client, base.revision, plan.revision))

    def knows(self, plan: Plan) -> bool:
        try:
            return self.revisions.plan(plan.revision).revision == plan.revision
        except RequestError:
            return False


def test_a_process_that_lags_is_right_until_it_has_switched() -> None:
    house, second = House(0, 1), plan_watcher(2)
    assert house.load(0, second)
    assert house.pushed == [(1, second.revision)]
    house.ask("release", 0, FIRST.revision)
    assert house.knows(FIRST) and house.knows(second)
    wire = house.ask("newest", 1, FIRST.revision)
    assert isinstance(wire, dict) and Plan.from_wire(wire).revision == second.revision
    assert house.ask("told")["processes"] == {"0": FIRST.revision, "1": FIRST.revision}
    for client in (0, 1):
        assert house.ask("newest", client, second.revision) is None
    assert house.ask("told")["processes"] == {"0": second.revision, "1": second.revision}
    house.ask("release", 1, FIRST.revision)
    assert not house.knows(FIRST)


def test_a_plan_goes_with_its_last_request() -> None:
    house, second = House(0), plan_watcher(2)
    for _ in range(2):
        house.revisions.add_request(FIRST.revision)
    assert house.load(0, second)
    house.ask("release", 0, FIRST.revision)
    house.revisions.remove_request(FIRST.revision)
    assert house.knows(FIRST)
    house.revisions.remove_request(FIRST.revision)
    assert not house.knows(FIRST)
    assert house.ask("told")["requests"] == {second.revision: 0}


def test_of_two_that_prepared_at_once_one_is_told_to_start_anew() -> None:
    house, second, third = House(0, 1), plan_watcher(2), plan_watcher(3)
    assert house.prepare(1, third) == ""
    assert house.load(0, second)
    assert not house.ask("activate", 1, FIRST.revision, third.revision)
    house.ask("release", 1, third.revision)
    assert not house.knows(third) and house.revisions.newest.revision == second.revision
    assert house.load(1, third, base=second)


def test_what_was_never_activated_goes_without_a_trace() -> None:
    house, second = House(0), plan_watcher(2)
    assert house.prepare(0, second) == ""
    house.ask("release", 0, second.revision)
    assert not house.knows(second) and house.knows(FIRST)
    assert not house.ask("activate", 0, FIRST.revision, second.revision)
    assert house.pushed == []


def test_a_plan_that_is_let_go_while_it_is_read_is_not_kept() -> None:
    house, second = House(0), plan_watcher(2)
    reading = house.revisions.handle_rpc("prepare", (0, second.revision, second.to_wire()))
    house.ask("release", 0, second.revision)
    assert reading.result() == "" and not house.knows(second)


def test_a_plan_under_another_name_is_refused() -> None:
    house, second = House(0), plan_watcher(2)
    told = house.ask("prepare", 0, "abc", second.to_wire())
    assert f"of revision {second.revision}, want abc" in str(told) and not house.knows(second)


def test_going_back_to_an_older_revision_keeps_it() -> None:
    house, second = House(0), plan_watcher(2)
    assert house.load(0, second)
    assert house.load(0, FIRST, base=second)
    house.ask("release", 0, second.revision)
    assert house.knows(FIRST) and not house.knows(second)


@pytest.mark.parametrize(
    "other",
    [
        make_plan(Catalog(vectors={"v": vector("v", (1, 2))})),
        make_plan(Catalog(vectors={"v": vector("v", (2,))}), limits={"max_programs": 3}),
        make_plan(
            Catalog(
                vectors={"v": vector("v", (2,))},
                probes={"p": probe("p", {1: random_rows(4, 1)[0]}, {"now": readout("output")})},
            )
        ),
    ],
    ids=["taps", "slots", "probes"],
)
def test_another_installation_is_refused_and_changes_nothing(other: Plan) -> None:
    house = House(0)
    assert "needs another installation" in house.prepare(0, other)
    assert not house.knows(other) and house.ask("told")["newest"] == FIRST.revision


@pytest.mark.parametrize("wire", [{}, {"body": "{}", "tensors": "", "config": "{}"}])
def test_a_plan_that_cannot_be_read_is_refused(wire: dict[str, str]) -> None:
    house = House(0)
    assert "cannot be read" in str(house.ask("prepare", 0, "abc", wire))
    assert house.ask("told")["newest"] == FIRST.revision


def test_vectors_profiles_grants_and_two_limits_leave_the_installation_alone() -> None:
    other_limits = make_plan(
        Catalog(vectors={"v": vector("v", (2,))}),
        limits={"max_norm_ratio": 3.0, "max_wait_ms": 5},
        auth={"client_steering": True, "client_scores": True},
    )
    assert plan_watcher(5).installation == other_limits.installation == FIRST.installation
    assert Plan.from_wire(FIRST.to_wire()).installation == FIRST.installation


def test_a_reserved_tap_is_the_tap_that_a_vector_brings() -> None:
    reserved = make_plan(Catalog(), taps={"resid_post": [2]})
    assert reserved.body.taps == FIRST.body.taps
