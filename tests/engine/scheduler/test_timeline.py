"""The timeline: which edits a block's positions got, as content."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.scheduler.cache_key import FOREVER, Edit, Timeline
from pilothouse.engine.scheduler.messages import PolicySpan
from tests.reference.policy_steering import strength_at

A = Edit(0, 40, "a", 1.5, "request")
BLOCK = (16, 32)
STRENGTHS = (1.0, 2.0, -2.0, 0.5)
"""Of the rules by rank."""


def of(*edits: Edit) -> Timeline:
    """The request's own edits: ascending and apart."""
    timeline = Timeline()
    timeline.request(edits)
    return timeline


def imposed(*told: tuple[str, PolicySpan]) -> Timeline:
    """The policies' edits, in the order in which rules fired."""
    timeline = Timeline()
    for digest, span in told:
        timeline.impose(digest, span)
    return timeline


def span(start: int, stop: int, rank: int = 0) -> PolicySpan:
    return PolicySpan("r", 0, start, stop, STRENGTHS[rank], rank)


def test_an_untouched_block_has_no_key() -> None:
    assert Timeline().key(0, 16) is None
    assert of(A).key(48, 64) is None
    assert of(replace(A, coefficient=0.0)).key(0, 16) is None
    assert imposed(("a", span(0, 40))).key(48, 64) is None


def test_every_part_of_the_content_changes_the_key() -> None:
    key = of(A).key(32, 48)
    changes = ({"digest": "b"}, {"coefficient": -1.5}, {"stage": "policy"}, {"stop": 41})
    keys = [of(replace(A, **change)).key(32, 48) for change in changes]
    assert len({key, None, *keys}) == len(changes) + 2


def test_what_a_policy_does_is_not_what_a_request_asks_for() -> None:
    asked = of(Edit(0, 40, "a", STRENGTHS[0], "request"))
    assert imposed(("a", span(0, 40))).key(*BLOCK) != asked.key(*BLOCK)


def test_what_happens_outside_the_block_does_not_change_its_key() -> None:
    longer = replace(A, stop=FOREVER)
    assert of(A).key(0, 16) == of(longer).key(0, 16)
    assert of(A).key(32, 48) != of(longer).key(32, 48)


def test_where_a_prompt_ended_does_not_matter_when_the_edit_goes_on() -> None:
    cut = of(replace(A, stop=5), replace(A, start=5))
    assert cut.key(0, 16) == of(A).key(0, 16)


def test_a_gap_between_edits_matters() -> None:
    gap = of(replace(A, stop=5), replace(A, start=6))
    assert gap.key(0, 16) != of(A).key(0, 16)


def test_a_weaker_rule_under_a_stronger_one_is_not_in_the_key() -> None:
    strong = imposed(("a", span(0, 40, 1)))
    for told in ((span(0, 40, 1), span(0, 40, 0)), (span(0, 40, 0), span(0, 40, 1))):
        assert imposed(*(("a", each) for each in told)).key(*BLOCK) == strong.key(*BLOCK)
    assert imposed(("a", span(0, 40, 0))).key(*BLOCK) != strong.key(*BLOCK)


def test_which_rule_steered_is_no_content() -> None:
    other = replace(span(0, 40), rank=7)
    assert imposed(("a", span(0, 40))).key(*BLOCK) == imposed(("a", other)).key(*BLOCK)
    mixed = imposed(("a", span(0, 20)), ("a", replace(other, start=10)))
    assert mixed.key(*BLOCK) == imposed(("a", span(0, 40))).key(*BLOCK)


fired = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.builds(span, st.integers(0, 40), st.integers(0, 60), st.integers(0, 3)),
    ),
    max_size=6,
)
"""Of any rule along two programs, from anywhere to anywhere, also several together."""


def applied(told: list[tuple[str, PolicySpan]]) -> list[list[float]]:
    return [
        [strength_at(position, [each for name, each in told if name == digest]) for digest in "ab"]
        for position in range(*BLOCK)
    ]


@given(fired, fired, st.randoms(use_true_random=False))
def test_keys_are_equal_exactly_where_the_same_is_applied_at_every_position(
    ours: list[tuple[str, PolicySpan]], theirs: list[tuple[str, PolicySpan]], draw: Random
) -> None:
    same_key = imposed(*ours).key(*BLOCK) == imposed(*theirs).key(*BLOCK)
    assert same_key == (applied(ours) == applied(theirs))
    shuffled = draw.sample(ours, len(ours))
    assert imposed(*shuffled).key(*BLOCK) == imposed(*ours).key(*BLOCK)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 40), st.integers(1, 20))
def test_a_requests_own_edits_are_found_wherever_they_lie(
    lengths: list[int], start: int, count: int
) -> None:
    edges = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    own = [
        Edit(low, high, str(i % 3), 1.0, "request")
        for i, (low, high) in enumerate(pairwise(edges))
        if i % 4
    ]
    timeline = Timeline()
    timeline.request(own)
    assert timeline.key(start, start + count) == _plainly(own, start, start + count)


def _plainly(edits: list[Edit], start: int, stop: int) -> bytes | None:
    """The key of those edits alone that reach into the block."""
    return of(*(each for each in edits if each.start < stop and each.stop > start)).key(start, stop)


class Counted(float):
    """A strength that knows how often it was written into a key."""

    times = 0

    def hex(self) -> str:
        Counted.times += 1
        return super().hex()


def test_a_blocks_key_costs_the_edits_in_it_however_many_lie_before() -> None:
    timeline = Timeline()
    timeline.request(Edit(2 * i, 2 * i + 1, "a", Counted(1.0), "request") for i in range(5000))
    for i in range(5000):
        timeline.impose("b", PolicySpan("r", 0, 2 * i, 2 * i + 1, Counted(1.0), 0))
    Counted.times = 0
    timeline.key(9000, 9016)
    assert Counted.times <= 16  # eight of each, not ten thousand


def test_a_requests_edits_can_change_from_a_position_on() -> None:
    timeline, whole = Timeline(), Timeline()
    timeline.request([replace(A, stop=FOREVER)])
    timeline.request([Edit(20, 30, "b", 2.0, "request")], since=20)
    whole.request([replace(A, stop=20), Edit(20, 30, "b", 2.0, "request")])
    assert [timeline.key(s, s + 8) for s in range(0, 48, 8)] == [
        whole.key(s, s + 8) for s in range(0, 48, 8)
    ]
