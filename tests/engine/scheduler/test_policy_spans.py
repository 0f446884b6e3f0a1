"""Overlapping spans of one target against the definition, position by position."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.scheduler.messages import PolicySpan, PolicySpans
from tests.reference.policy_steering import strength_at, winner_at

FAR = 40
STRENGTHS = (1.0, 2.0, -2.0, 0.5)
"""Of the rules by rank; two are equal but for the sign."""


def span(start: int, stop: int, rank: int) -> PolicySpan:
    return PolicySpan("r", 0, start, stop, STRENGTHS[rank], rank)


spans = st.builds(span, st.integers(0, 24), st.integers(0, FAR), st.integers(0, len(STRENGTHS) - 1))
"""Of any rule from anywhere to anywhere: twice the same, inside each other, empty."""


def held(*told: PolicySpan) -> PolicySpans:
    made = PolicySpans()
    for each in told:
        made.impose(each)
    return made


def strengths(*told: PolicySpan) -> list[float]:
    """By position, as the spans say; that they neither overlap nor could be fewer is checked."""
    found = [0.0] * FAR
    for each in held(*told):
        assert found[each.start : each.stop] == [0.0] * (each.stop - each.start)
        found[each.start : each.stop] = [each.coefficient] * (each.stop - each.start)
    return found


@given(st.lists(spans, max_size=8))
def test_at_each_position_the_strongest_holds_and_of_equals_the_first_rules(
    told: list[PolicySpan],
) -> None:
    kept = list(held(*told))
    assert all(
        one.stop < other.start or (one.stop == other.start and one.rank != other.rank)
        for one, other in pairwise(kept)
    )
    for position in range(FAR):
        winner = winner_at(position, told)
        mine = [each for each in kept if each.start <= position < each.stop]
        assert [each.rank for each in mine] == ([] if winner is None else [winner.rank])
        assert [each.coefficient for each in mine] == (
            [] if winner is None else [winner.coefficient]
        )


@given(st.lists(spans, max_size=8), st.integers(0, FAR), st.integers(0, FAR))
def test_what_reaches_into_a_stretch_is_found(
    told: list[PolicySpan], start: int, stop: int
) -> None:
    made = held(*told)
    assert list(made.within(start, stop)) == [
        each for each in made if each.start < stop and each.stop > start
    ]


@given(
    st.lists(spans, max_size=6).flatmap(
        lambda told: st.tuples(st.just(told), st.permutations(told))
    )
)
def test_the_order_in_which_rules_fire_does_not_matter(
    both: tuple[list[PolicySpan], list[PolicySpan]],
) -> None:
    told, shuffled = both
    assert list(held(*told)) == list(held(*shuffled))


def test_two_that_fire_in_one_step_leave_the_stronger() -> None:
    strong, weak = span(3, 9, 1), span(3, 9, 0)
    assert list(held(strong, weak)) == list(held(weak, strong)) == [strong]


def test_a_weaker_rule_goes_on_where_a_stronger_one_has_ended() -> None:
    weak, strong = span(0, 20, 0), span(5, 9, 1)
    assert strengths(weak, strong)[:20] == [1.0] * 5 + [2.0] * 4 + [1.0] * 11


def test_of_two_equal_but_for_the_sign_the_first_rule_wins_whichever_began() -> None:
    plus, minus = span(0, 10, 1), span(4, 14, 2)
    assert strengths(plus, minus)[:14] == [2.0] * 10 + [-2.0] * 4
    plus, minus = span(4, 14, 1), span(0, 10, 2)
    assert strengths(plus, minus)[:14] == [-2.0] * 4 + [2.0] * 10


def test_a_hold_is_lengthened_and_never_shortened_by_the_same_rule() -> None:
    assert list(held(span(0, 8, 0), span(4, 12, 0))) == [span(0, 12, 0)]
    assert list(held(span(0, 12, 0), span(4, 6, 0))) == [span(0, 12, 0)]


def test_a_hold_that_fires_again_and_again_stays_one_span() -> None:
    many = held(*(span(i, i + 4, 0) for i in range(500)))
    assert list(many) == [span(0, 503, 0)]


def test_the_definition_is_the_definition() -> None:
    told = [span(0, 4, 0), span(2, 6, 2), span(3, 5, 1)]
    assert [strength_at(i, told) for i in range(7)] == [1.0, 1.0, -2.0, 2.0, 2.0, -2.0, 0.0]
