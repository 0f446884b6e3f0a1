"""Who gets a slot, and when: fair between programs that lie in slots and those that wait."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.scheduler import programs as orders_module
from pilothouse.engine.scheduler.programs import SteeringAllocator
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.signed_request import SignedRequest
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import vector
from tests.support.engines.harness import make_plan

WAIT_MS = 2000
STEP_SECONDS = 0.05
NAMES = "abcdef"
PLAN = make_plan(
    Catalog(vectors={name: vector(name, (1,), seed=i) for i, name in enumerate(NAMES)}),
    limits={"max_norm_ratio": 1e6, "max_programs": 2, "max_wait_ms": WAIT_MS},
)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(orders_module, "time", made)
    return made


def ask(orders: SteeringAllocator, name: str, scale: float = 1.0) -> RequestState:
    sealed = SignedRequest(
        decision_id="d", revision="r", steer=(SteerTerm(vector=name, scale=scale),)
    )
    return orders.register(sealed, [1, 2, 3])


def test_strengths_share_a_slot() -> None:
    orders = SteeringAllocator(PLAN)
    asked = [ask(orders, "a", scale) for scale in np.linspace(-2, 2, 40)]
    assert all(orders.acquire_slots(each) for each in asked)
    assert orders.programs_active == 1
    assert len(orders.drain_uploads()) == 1


def test_a_stream_of_resident_programs_does_not_starve_one_that_waits(clock: Clock) -> None:
    orders = SteeringAllocator(PLAN)
    riding = [ask(orders, "a"), ask(orders, "b")]
    assert all(orders.acquire_slots(each) for each in riding)
    stranger = ask(orders, "c")
    passed = 0
    while not orders.acquire_slots(stranger):
        assert stranger.error is None, "it was never let in"
        clock.now += STEP_SECONDS
        newcomers = [ask(orders, "a"), ask(orders, "b")]
        seated = [each for each in newcomers if orders.acquire_slots(each)]
        passed += len(seated)
        for each in riding:
            orders.release(each)
        for each in newcomers:
            if each not in seated:
                orders.release(each)
        riding = seated
    assert passed > 0, "before it is old, resident programs may pass it"
    assert clock.now - 100.0 <= WAIT_MS / 1000


def test_who_waits_too_long_is_told(clock: Clock) -> None:
    orders = SteeringAllocator(PLAN)
    assert all(orders.acquire_slots(ask(orders, name)) for name in "ab")
    stranger = ask(orders, "c")
    assert not orders.acquire_slots(stranger)
    clock.now += WAIT_MS / 1000 + 0.001
    assert not orders.acquire_slots(stranger)
    assert stranger.error == "capacity"


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(1, 12), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_everybody_is_seated_in_turn_or_told_and_no_slot_is_lost(
    arrivals: list[tuple[str, int, bool]],
) -> None:
    clock, orders = Clock(), SteeringAllocator(PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders_module, "time", clock)
        waiting = [(ask(orders, name), steps, aborts) for name, steps, aborts in arrivals]
        riding: list[list] = []
        for _ in range(2000):
            still = []
            for request_state, steps, aborts in waiting:
                if orders.acquire_slots(request_state):
                    riding.append([request_state, steps])
                elif request_state.error is not None or (aborts and steps % 3 == 0):
                    orders.release(request_state)
                else:
                    still.append((request_state, steps, aborts))
            waiting = still
            assert orders.programs_active <= 2
            for each in riding:
                each[1] -= 1
            for request_state, _ in [each for each in riding if each[1] <= 0]:
                orders.release(request_state)
            riding = [each for each in riding if each[1] > 0]
            clock.now += STEP_SECONDS
            if not waiting and not riding:
                break
        assert not waiting
        assert orders.programs_active == 0
        assert orders.acquire_slots(ask(orders, "f"))
