"""Positions: which tokens a term means, and stretches in which the same terms hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pilothouse.edits.positions import FOREVER, intervals, looks_at_output, merged, segments
from pilothouse.term import SteerTerm

N = 6
TOKENS = [5, 9, 5, 7, 8, 9, 1, 9, 2]


def term(**fields: Any) -> SteerTerm:
    return SteerTerm.model_validate({"vector": "v", "scale": 1.0, "on": "all"} | fields)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [(0, FOREVER)]),
        ({"on": "prompt"}, [(0, 6)]),
        ({"on": "output"}, [(6, FOREVER)]),
        ({"positions": "last_prompt"}, [(5, 6)]),
        ({"positions": {"first": 2}}, [(0, 2)]),
        ({"on": "output", "positions": {"first": 2}}, [(6, 8)]),
        ({"on": "prompt", "positions": {"first": 99}}, [(0, 6)]),
        ({"on": "prompt", "positions": {"last": 2}}, [(4, 6)]),
        ({"on": "prompt", "positions": {"last": 99}}, [(0, 6)]),
        ({"on": "output", "positions": {"window": [1, 4]}}, [(7, 10)]),
        ({"positions": {"indices": [0, -1, 7, 1]}}, [(0, 2), (5, 6), (7, 8)]),
        ({"on": "prompt", "positions": {"indices": [2, 7]}}, [(2, 3)]),
        ({"positions": {"indices": [-9, 3]}}, [(3, 4)]),
        ({"positions": {"after": [7]}}, [(4, FOREVER)]),
        ({"on": "output", "positions": {"after": [7]}}, [(6, FOREVER)]),
        ({"positions": {"after": [9], "span": 1}}, [(2, 3), (6, 7), (8, 9)]),
        ({"on": "prompt", "positions": {"after": [9], "span": 2}}, [(2, 4)]),
        ({"on": "output", "positions": {"after": [4]}}, []),
    ],
)
def test_a_way_of_naming_positions_means_these(
    fields: dict[str, Any], wanted: list[tuple[int, int]]
) -> None:
    assert intervals(term(**fields), TOKENS, N) == wanted


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"positions": {"first": 1, "last": 1}}, "want exactly one of"),
        ({"positions": {}}, "want exactly one of"),
        ({"positions": {"first": 0}}, "greater than or equal to 1"),
        ({"positions": {"first": 1, "span": 2}}, "goes with `after` only"),
        ({"on": "output", "positions": {"window": [3, 3]}}, "want from below to"),
        ({"on": "prompt", "positions": {"window": [0, 3]}}, "use `on: output`"),
        ({"on": "output", "positions": {"last": 3}}, "use `on: prompt`"),
        ({"on": "output", "positions": "last_prompt"}, "use `on: prompt`"),
        ({"positions": {"indices": list(range(33))}}, "at most 32"),
    ],
)
def test_what_would_mean_nothing_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        term(**fields)


def test_only_terms_that_wait_for_output_tokens_look_at_them() -> None:
    after = {"after": [9]}
    assert looks_at_output(term(positions=after)) and looks_at_output(
        term(on="output", positions=after)
    )
    assert not looks_at_output(term(on="prompt", positions=after))
    assert not looks_at_output(term(positions={"first": 2}))


ways = st.one_of(
    st.none(),
    st.just("last_prompt"),
    st.builds(lambda count: {"first": count}, st.integers(1, 9)),
    st.builds(lambda *at: {"indices": list(at)}, st.integers(-7, 9), st.integers(-7, 9)),
    st.builds(
        lambda token, span: {"after": [token]} | ({} if span is None else {"span": span}),
        st.sampled_from(TOKENS),
        st.none() | st.integers(1, 3),
    ),
)
drawn = st.lists(
    st.builds(lambda way, on: term(positions=way, on=on), ways, st.sampled_from(["prompt", "all"])),
    max_size=4,
)


@given(drawn, st.integers(0, len(TOKENS)))
def test_segments_say_at_every_position_which_terms_hold(
    terms: list[SteerTerm], prompt: int
) -> None:
    places = [intervals(each, TOKENS, prompt) for each in terms]
    found = segments(places)
    for position in range(15):
        wanted = tuple(
            index
            for index, each in enumerate(places)
            if any(low <= position < high for low, high in each)
        )
        got = [held for (low, high), held in found if low <= position < high]
        assert got == ([wanted] if wanted else [])


@given(drawn, st.integers(1, len(TOKENS)), st.integers(0, len(TOKENS)))
def test_a_token_that_comes_later_changes_no_position_up_to_its_own(
    terms: list[SteerTerm], prompt: int, known: int
) -> None:
    known = max(known, prompt)

    def upto(count: int) -> list[list[tuple[int, int]]]:
        held = [intervals(each, TOKENS[:count], prompt) for each in terms]
        return [merged((low, min(high, known)) for low, high in each) for each in held]

    assert upto(known) == upto(len(TOKENS))
