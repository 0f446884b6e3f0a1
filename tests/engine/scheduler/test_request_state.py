"""The phase of a request: one method moves it, and only ever forward."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.scheduler import programs
from pilothouse.engine.scheduler.programs import SteeringAllocator
from pilothouse.engine.scheduler.request_state import (
    FOLLOWING,
    HOLDS_SLOTS,
    RequestPhase,
    RequestState,
)
from pilothouse.signed_request import SignedRequest
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import vector
from tests.support.engines.harness import make_plan

NAMES = "abcd"
PLAN = make_plan(
    Catalog(vectors={name: vector(name, (1,), seed=i) for i, name in enumerate(NAMES)}),
    limits={"max_norm_ratio": 1e6, "max_programs": 2, "max_wait_ms": 100},
)
ORDER = list(RequestPhase)


def state() -> RequestState:
    return RequestState(SignedRequest(decision_id="d", revision="r"), PLAN, 3)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_every_phase_is_followed_by_later_ones_alone() -> None:
    assert FOLLOWING.keys() == set(RequestPhase)
    for phase, following in FOLLOWING.items():
        assert all(ORDER.index(each) > ORDER.index(phase) for each in following)
        assert phase is RequestPhase.ENDED or RequestPhase.ENDED in following
    assert not any(RequestPhase.REFUSED in FOLLOWING[phase] for phase in HOLDS_SLOTS)


@given(st.lists(st.sampled_from(ORDER), max_size=20))
def test_whatever_is_asked_a_phase_only_moves_forward(asked: list[RequestPhase]) -> None:
    request_state = state()
    seen = [request_state.phase]
    for phase in asked:
        before = request_state.phase
        if phase in FOLLOWING[before]:
            request_state.advance(phase)
            assert request_state.phase is phase
        else:
            with pytest.raises(RuntimeError, match=before.name):
                request_state.advance(phase)
            assert request_state.phase is before
        seen.append(request_state.phase)
    places = [ORDER.index(each) for each in seen]
    assert places == sorted(places)


def test_nobody_sets_a_phase_past_the_method() -> None:
    with pytest.raises(AttributeError):
        state().phase = RequestPhase.RUNNING  # type: ignore[misc]


EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(("ask", "report", "release", "wait"))),
    max_size=60,
)


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6), EVENTS)
def test_a_requests_life_moves_forward_and_gives_its_slots_back(
    names: list[str], events: list[tuple[int, str]]
) -> None:
    clock, allocator = Clock(), SteeringAllocator(PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "time", clock)
        states = [
            allocator.register(
                SignedRequest(
                    decision_id="d", revision="r", steer=(SteerTerm(vector=name, scale=1.0),)
                ),
                [1, 2, 3],
            )
            for name in names
        ]
        seen = [[each.phase] for each in states]
        for place, event in events:
            chosen = states[place % len(states)]
            phase = chosen.phase
            if event == "wait":
                clock.now += 0.06
            elif event == "ask" and phase not in (RequestPhase.REFUSED, RequestPhase.ENDED):
                assert allocator.acquire_slots(chosen) is (chosen.phase in HOLDS_SLOTS)
            elif event == "report" and phase in HOLDS_SLOTS:
                chosen.mark_dirty(changed=False)
                assert chosen.should_report() is (phase is RequestPhase.RUNNING)
            elif event == "release" and phase is not RequestPhase.ENDED:
                allocator.release(chosen)
            for phases, each in zip(seen, states, strict=True):
                phases.append(each.phase)
        for each in states:
            if each.phase is not RequestPhase.ENDED:
                allocator.release(each)
        assert allocator.programs_active == 0
        for phases in seen:
            for before, after in pairwise(phases):
                assert after is before or after in FOLLOWING[before]
