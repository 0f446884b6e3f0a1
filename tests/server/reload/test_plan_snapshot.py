"""Editions: a request lives under one revision; an old one is let go when its last has ended."""

from __future__ import annotations

from dataclasses import replace

from pilothouse.config import Auth
from pilothouse.engine.plan.plan import Plan
from pilothouse.server.auth import Authenticator
from pilothouse.server.reload.plan_snapshot import PlanSnapshot, PlanSnapshots
from tests.support.servers.app_parts import admission, tiny_plan


def plan_snapshot(revision: str) -> PlanSnapshot:
    body = tiny_plan().body.model_copy(update={"revision": revision})
    plan: Plan = replace(tiny_plan(), body=body)
    return PlanSnapshot(plan, Authenticator(Auth(), (), demo=False), admission(plan))


def plan_snapshots() -> tuple[PlanSnapshots, list[str]]:
    made, gone = PlanSnapshots(plan_snapshot("a")), []
    made.on_unused(gone.append)
    return made, gone


def test_a_request_keeps_the_edition_it_came_under() -> None:
    made, gone = plan_snapshots()
    with made.admitting() as first:
        made.switch(plan_snapshot("b"))
        assert first.plan.revision == "a" and made.newest.plan.revision == "b"
        with made.admitting() as second:
            assert second is made.newest
        assert gone == []
    assert gone == ["a"]


def test_an_edition_nobody_uses_goes_at_once() -> None:
    made, gone = plan_snapshots()
    made.switch(plan_snapshot("b"))
    assert gone == ["a"] and made.unused("a") and not made.unused("b")


def test_an_edition_that_comes_back_is_not_let_go() -> None:
    made, gone = plan_snapshots()
    with made.admitting():
        made.switch(plan_snapshot("b"))
        made.switch(plan_snapshot("a"))
        assert gone == ["b"]
    assert gone == ["b"] and not made.unused("a")


def test_a_request_that_fails_counts_as_ended() -> None:
    made, gone = plan_snapshots()
    try:
        with made.admitting():
            made.switch(plan_snapshot("b"))
            raise RuntimeError
    except RuntimeError:
        pass
    assert gone == ["a"]
