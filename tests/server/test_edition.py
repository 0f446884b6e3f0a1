"""Editions: a request lives under one revision; an old one is let go when its last has ended."""

from __future__ import annotations

from dataclasses import replace

from pilothouse.config import Auth
from pilothouse.engine.plan import Plan
from pilothouse.server.edition import Edition, Editions
from pilothouse.server.identity import Doorkeeper
from tests.server.builders import admission, tiny_plan


def edition(revision: str) -> Edition:
    body = tiny_plan().body.model_copy(update={"revision": revision})
    plan: Plan = replace(tiny_plan(), body=body)
    return Edition(plan, Doorkeeper(Auth(), (), demo=False), admission(plan))


def editions() -> tuple[Editions, list[str]]:
    made, gone = Editions(edition("a")), []
    made.on_unused(gone.append)
    return made, gone


def test_a_request_keeps_the_edition_it_came_under() -> None:
    made, gone = editions()
    with made.admitting() as first:
        made.switch(edition("b"))
        assert first.plan.revision == "a" and made.newest.plan.revision == "b"
        with made.admitting() as second:
            assert second is made.newest
        assert gone == []
    assert gone == ["a"]


def test_an_edition_nobody_uses_goes_at_once() -> None:
    made, gone = editions()
    made.switch(edition("b"))
    assert gone == ["a"] and made.unused("a") and not made.unused("b")


def test_an_edition_that_comes_back_is_not_let_go() -> None:
    made, gone = editions()
    with made.admitting():
        made.switch(edition("b"))
        made.switch(edition("a"))
        assert gone == ["b"]
    assert gone == ["b"] and not made.unused("a")


def test_a_request_that_fails_counts_as_ended() -> None:
    made, gone = editions()
    try:
        with made.admitting():
            made.switch(edition("b"))
            raise RuntimeError
    except RuntimeError:
        pass
    assert gone == ["a"]
