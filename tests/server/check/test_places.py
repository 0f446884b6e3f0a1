"""A check of many texts steps aside for running requests; one of few never waits for them."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from pilothouse.errors import RequestError
from pilothouse.record import CHECK_ID
from pilothouse.server.check import places as module
from pilothouse.server.check.places import (
    AT_ONCE,
    LONGEST_REST,
    MOST_TEXTS,
    RESTS,
    UNPACED,
    CheckPlaces,
)
from pilothouse.server.response.decisions import DecisionStore


class Clock:
    """Time that passes only where somebody sleeps; each rest is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.rests: list[float] = []
        self.in_flight = self.most = 0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.asyncio, "sleep", self._rest)
        self._yield = asyncio.sleep

    async def _rest(self, seconds: float) -> None:
        self.rests.append(seconds)

    async def text(self, call: Any, took: float) -> None:
        """Score a text that takes so long."""
        async with call.one():
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            for _ in range(3):
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(future.set_result, None)
                await future
            self.now += took
            self.in_flight -= 1


async def scored(clock: Clock, count: int, *, busy: bool, took: float = 0.01) -> None:
    with CheckPlaces(lambda: busy).call(count) as call:
        await asyncio.gather(*(clock.text(call, took) for _ in range(count)))


async def test_a_check_of_few_texts_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    await scored(clock, UNPACED, busy=True)
    assert clock.rests == [] and clock.most <= AT_ONCE


async def test_nobody_rests_while_nothing_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    await scored(clock, 30, busy=False)
    assert clock.rests == [] and clock.most <= AT_ONCE


async def test_beside_requests_each_further_text_is_followed_by_a_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    await scored(clock, 30, busy=True)
    assert len(clock.rests) == 30 - UNPACED
    assert all(each >= RESTS * 0.01 - 1e-9 for each in clock.rests)


async def test_a_rest_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    await scored(clock, UNPACED + 2, busy=True, took=5.0)
    assert clock.rests == [LONGEST_REST] * 2


async def test_who_rests_keeps_nobody_elses_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three long calls that rest for good, and a text of a fourth call."""
    started = asyncio.Event()

    async def rest(_: float) -> None:
        started.set()
        await asyncio.Event().wait()

    clock = Clock(monkeypatch)
    monkeypatch.setattr(module.asyncio, "sleep", rest)
    places = CheckPlaces(lambda: True)
    with ExitStack() as stack:
        calls = [stack.enter_context(places.call(UNPACED + 2)) for _ in range(3)]
        long = [
            asyncio.ensure_future(clock.text(call, 0.01))
            for call in calls
            for _ in range(UNPACED + 2)
        ]
        await started.wait()
        await asyncio.wait_for(clock.text(stack.enter_context(places.call(1)), 0.01), 5)
        for each in long:
            each.cancel()
        await asyncio.gather(*long, return_exceptions=True)


def test_no_more_texts_than_a_bound_are_under_way() -> None:
    places = CheckPlaces(lambda: False)
    with places.call(MOST_TEXTS + 1), pytest.raises(RequestError, match="ask again") as caught:
        places.call(1).__enter__()
    assert caught.value.status == 503
    with pytest.raises(ValueError, match="broken"), places.call(MOST_TEXTS):
        raise ValueError("broken")
    with places.call(MOST_TEXTS - 1), places.call(1):
        pass


def test_texts_of_checks_are_no_requests_that_run() -> None:
    store = DecisionStore()
    assert not store.has_requests
    store.open(f"{CHECK_ID}1")
    assert not store.has_requests
    store.open("2")
    assert store.has_requests
    store.close("2")
    assert not store.has_requests
