"""The timeline: which edits a block's positions got, as content."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.timeline import FOREVER, Edit, Timeline

A = Edit(0, 40, "a", 1.5, "request")


def of(*edits: Edit) -> Timeline:
    return Timeline(imposed=list(edits))


def test_an_untouched_block_has_no_key() -> None:
    assert Timeline().key(0, 16) is None
    assert of(A).key(48, 64) is None
    assert of(replace(A, coefficient=0.0)).key(0, 16) is None


def test_every_part_of_the_content_changes_the_key() -> None:
    key = of(A).key(32, 48)
    changes = ({"digest": "b"}, {"coefficient": -1.5}, {"stage": "policy"}, {"stop": 41})
    keys = [of(replace(A, **change)).key(32, 48) for change in changes]
    assert len({key, None, *keys}) == len(changes) + 2


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


def test_lengthening_replaces_even_when_another_target_came_between() -> None:
    other = replace(A, digest="b", start=3)
    timeline = of(A, other, replace(A, stop=50))
    for start in range(0, 64, 16):
        wanted = of(replace(A, stop=50), other).key(start, start + 16)
        assert timeline.key(start, start + 16) == wanted


edits = st.builds(
    Edit,
    st.integers(0, 40),
    st.integers(0, 60),
    st.sampled_from("ab"),
    st.sampled_from([1.0, 2.0]),
    st.just("request"),
)


@given(st.permutations([Edit(0, 9, "a", 1.0, "request"), Edit(4, 20, "b", 2.0, "policy"), A]))
def test_the_order_in_which_edits_came_does_not_matter(shuffled: list[Edit]) -> None:
    ordered = of(*sorted(shuffled, key=repr))
    assert of(*shuffled).key(0, 16) == ordered.key(0, 16)


@given(st.lists(edits, max_size=4), st.lists(edits, max_size=4))
def test_equal_keys_mean_equal_edits_at_every_position(
    ours: list[Edit], theirs: list[Edit]
) -> None:
    def at(position: int, edits: list[Edit]) -> set[tuple[str, float]]:
        return {(e.digest, e.coefficient) for e in edits if e.start <= position < e.stop}

    if of(*ours).key(16, 32) == of(*theirs).key(16, 32):
        assert all(at(position, ours) == at(position, theirs) for position in range(16, 32))


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
    assert timeline.key(start, start + count) == of(*own).key(start, start + count)


@given(st.lists(edits, max_size=12), st.integers(0, 60), st.integers(1, 20))
def test_policies_edits_are_kept_as_the_positions_they_cover(
    imposed: list[Edit], start: int, count: int
) -> None:
    apart = [
        replace(each, start=position, stop=position + 1)
        for each in imposed
        for position in range(each.start, each.stop)
    ]
    assert of(*imposed).key(start, start + count) == of(*apart).key(start, start + count)


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
        timeline.impose(Edit(2 * i, 2 * i + 1, "b", 1.0, "policy"))
    Counted.times = 0
    timeline.key(9000, 9016)
    assert Counted.times <= 8


def test_a_requests_edits_can_change_from_a_position_on() -> None:
    timeline, whole = Timeline(), Timeline()
    timeline.request([replace(A, stop=FOREVER)])
    timeline.request([Edit(20, 30, "b", 2.0, "request")], since=20)
    whole.request([replace(A, stop=20), Edit(20, 30, "b", 2.0, "request")])
    assert [timeline.key(s, s + 8) for s in range(0, 48, 8)] == [
        whole.key(s, s + 8) for s in range(0, 48, 8)
    ]
