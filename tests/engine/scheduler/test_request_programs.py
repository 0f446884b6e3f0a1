"""A request's programs: bounded by its terms, compiled once, and cut anew only behind a mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.artifacts.catalog import Catalog
from pilothouse.edits import program as program_module
from pilothouse.edits.positions import intervals, segments
from pilothouse.edits.program import CACHED_BYTES, forget_programs
from pilothouse.engine.plan.steering_cost import num_programs
from pilothouse.engine.scheduler import programs
from pilothouse.engine.scheduler.programs import SteeringAllocator
from pilothouse.engine.scheduler.request_state import RequestState
from pilothouse.signed_request import SignedRequest
from pilothouse.term import SteerTerm
from tests.support.engines.catalogs import vector
from tests.support.engines.harness import make_plan

NAMES = "abcd"
PLAN = make_plan(
    Catalog(vectors={name: vector(name, (1,), seed=i) for i, name in enumerate(NAMES)}),
    limits={"max_norm_ratio": 1e6},
)
MOST = 24


def term(name: str = "a", **fields: Any) -> SteerTerm:
    return SteerTerm.model_validate({"vector": name, "scale": 1.0, "on": "all"} | fields)


ways = st.one_of(
    st.none(),
    st.builds(lambda n: {"first": n}, st.integers(1, 9)),
    st.builds(lambda ids: {"indices": ids}, st.lists(st.integers(0, MOST), min_size=1, max_size=4)),
    st.builds(
        lambda ids, span: {"after": sorted(ids)} | ({} if span is None else {"span": span}),
        st.sets(st.integers(0, 3), min_size=1, max_size=2),
        st.none() | st.integers(1, 4),
    ),
)
drawn = st.lists(
    st.builds(
        lambda name, way, on: term(name, positions=way, on=on),
        st.sampled_from(NAMES),
        ways,
        st.sampled_from(["output", "all"]),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda each: each.name,
)
tokens = st.lists(st.integers(0, 5), min_size=1, max_size=MOST)


def boarded(
    orders: SteeringAllocator, terms: Sequence[SteerTerm], prompt: Sequence[int]
) -> RequestState:
    sealed = SignedRequest(decision_id="d", revision="r", steer=tuple(terms))
    return orders.register(sealed, prompt)


def at_each_position(request_state: RequestState) -> list[set[tuple[str, float]]]:
    own = request_state.timeline.requested
    return [
        {(each.digest, each.coefficient) for each in own if each.start <= p < each.stop}
        for p in range(MOST + 8)
    ]


@settings(max_examples=200)
@given(drawn, tokens, st.integers(1, 6), st.lists(st.integers(1, 3), max_size=MOST))
def test_looking_at_tokens_as_they_come_gives_what_all_of_them_give(
    terms: list[SteerTerm], told: list[int], prompt: int, steps: list[int]
) -> None:
    orders, prompt = SteeringAllocator(PLAN), min(prompt, len(told))
    request_state = boarded(orders, terms, told[:prompt])
    assert orders.acquire_slots(request_state)
    for known in [*np.minimum(prompt + np.cumsum([0, *steps]), len(told)).tolist(), len(told)]:
        orders.update_positions(request_state, told[:known])
    compiled = request_state.compiled
    assert compiled is not None
    whole: list[set[tuple[str, float]]] = [set() for _ in range(MOST + 8)]
    for (start, stop), held in segments([intervals(each, told, prompt) for each in terms]):
        program = compiled.of(held)
        for position in range(start, min(stop, MOST + 8)):
            if program is not None:
                whole[position] = {(program.digest, program.coefficient)}
    assert at_each_position(request_state) == whole
    needed = {each.digest for each in request_state.programs}
    assert {digest for each in whole for digest, _ in each} <= needed, "a program without a slot"


@settings(max_examples=200)
@given(drawn, tokens)
def test_a_request_never_needs_more_programs_than_were_counted(
    terms: list[SteerTerm], prompt: list[int]
) -> None:
    assert len(boarded(SteeringAllocator(PLAN), terms, prompt).programs) <= num_programs(terms)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many terms each program that was compiled has."""
    forget_programs()
    seen: list[int] = []
    compile_program = programs.compile_program

    def counted(terms: Sequence[SteerTerm], sources: Any) -> Any:
        seen.append(len(terms))
        return compile_program(terms, sources)

    monkeypatch.setattr(programs, "compile_program", counted)
    return seen


SCATTERED = [
    term("a", positions={"indices": list(range(0, 900, 30))}),
    term("b", positions={"indices": list(range(7, 900, 30))}),
    term("c", positions={"indices": list(range(0, 900, 60))}),
]


def test_choices_of_a_request_share_their_programs(compilations: list[int]) -> None:
    orders, prompt = SteeringAllocator(PLAN), [5] * 900
    asked = [boarded(orders, SCATTERED, prompt) for _ in range(6)]
    assert len(compilations) == len(asked[0].programs) == 3, "one for each set, not for each place"
    assert all(each.programs == asked[0].programs for each in asked)


def test_programs_of_a_request_that_has_ended_are_let_go(compilations: list[int]) -> None:
    orders = SteeringAllocator(PLAN)
    boarded(orders, SCATTERED, [5] * 900)
    boarded(orders, SCATTERED, [5] * 900)
    assert len(compilations) == 6, "nobody holds them in between"


def test_a_token_that_is_no_mark_costs_nothing(compilations: list[int]) -> None:
    orders = SteeringAllocator(PLAN)
    request_state = boarded(orders, [term(positions={"after": [9]})], [1, 2, 3])
    assert orders.acquire_slots(request_state)
    assert request_state.take_steering() is not None
    made = len(compilations)
    for count in range(4, 400):
        orders.update_positions(request_state, [1] * count)
    assert request_state.take_steering() is None, "the workers would be told again"
    assert len(compilations) == made


def test_a_mark_tells_the_workers_what_is_behind_it_alone() -> None:
    orders = SteeringAllocator(PLAN)
    request_state = boarded(orders, [term(positions={"after": [9], "span": 1})], [1, 9, 3])
    assert orders.acquire_slots(request_state)
    told = [1, 9, 3]
    assert request_state.take_steering() is not None
    for _ in range(200):
        told += [9, 4]
        orders.update_positions(request_state, told)
        steering = request_state.take_steering()
        assert steering is not None
        assert steering.since == len(told) - 1
        assert len(steering.starts) == 3


def test_what_was_not_sent_is_told_with_what_came_since() -> None:
    orders = SteeringAllocator(PLAN)
    request_state = boarded(orders, [term(positions={"after": [9], "span": 1})], [1, 9, 3])
    assert orders.acquire_slots(request_state)
    assert request_state.take_steering() is not None
    told = [1, 9, 3]
    for _ in range(3):
        told += [9, 4]
        orders.update_positions(request_state, told)
    steering = request_state.take_steering()
    assert steering is not None and steering.since == 4


def test_a_prompt_that_marks_cut_too_often_is_refused() -> None:
    orders = SteeringAllocator(PLAN)
    most = PLAN.body.limits.max_segments
    scattered = [term(positions={"after": [9], "span": 1})]
    assert boarded(orders, scattered, [9, 1] * most).error is None
    assert boarded(orders, scattered, [9, 1] * (most + 1)).error == "segments"


def test_compiled_programs_are_kept_within_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = program_module._Cache(1000)
    monkeypatch.setattr(program_module, "_CACHE", cache)
    for scale in range(1, 40):
        terms = [term("a"), term("b", scale=float(scale))]
        program_module.compile_program(terms, PLAN.sources)
        assert cache._bytes <= 1000
        assert cache._bytes == sum(size for size, _ in cache._held.values())
    assert len(cache._held) == 3, "each is 256 bytes"
    assert CACHED_BYTES <= 64 << 20
