"""The timeline: which edits a block's positions got, as content."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.timeline import FOREVER, Edit, Timeline

A = Edit(0, 40, "a", 1.5, "request")


def test_an_untouched_block_has_no_key() -> None:
    assert Timeline().key(0, 16) is None
    assert Timeline([A]).key(48, 64) is None
    assert Timeline([replace(A, coefficient=0.0)]).key(0, 16) is None


def test_every_part_of_the_content_changes_the_key() -> None:
    key = Timeline([A]).key(32, 48)
    changes = ({"digest": "b"}, {"coefficient": -1.5}, {"stage": "policy"}, {"stop": 41})
    keys = [Timeline([replace(A, **change)]).key(32, 48) for change in changes]
    assert len({key, None, *keys}) == len(changes) + 2


def test_what_happens_outside_the_block_does_not_change_its_key() -> None:
    longer = replace(A, stop=FOREVER)
    assert Timeline([A]).key(0, 16) == Timeline([longer]).key(0, 16)
    assert Timeline([A]).key(32, 48) != Timeline([longer]).key(32, 48)


def test_where_a_prompt_ended_does_not_matter_when_the_edit_goes_on() -> None:
    cut = Timeline([replace(A, stop=5), replace(A, start=5)])
    assert cut.key(0, 16) == Timeline([A]).key(0, 16)


def test_a_gap_between_edits_matters() -> None:
    gap = Timeline([replace(A, stop=5), replace(A, start=6)])
    assert gap.key(0, 16) != Timeline([A]).key(0, 16)


def test_lengthening_replaces_even_when_another_target_came_between() -> None:
    timeline = Timeline()
    other = replace(A, digest="b", start=3)
    for edit in (A, other, replace(A, stop=50)):
        timeline.add(edit)
    assert timeline.edits == [replace(A, stop=50), other]


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
    ordered = Timeline(sorted(shuffled, key=repr))
    assert Timeline(list(shuffled)).key(0, 16) == ordered.key(0, 16)


@given(st.lists(edits, max_size=4), st.lists(edits, max_size=4))
def test_equal_keys_mean_equal_edits_at_every_position(
    ours: list[Edit], theirs: list[Edit]
) -> None:
    def at(position: int, edits: list[Edit]) -> set[tuple[str, float]]:
        return {(e.digest, e.coefficient) for e in edits if e.start <= position < e.stop}

    if Timeline(ours).key(16, 32) == Timeline(theirs).key(16, 32):
        assert all(at(position, ours) == at(position, theirs) for position in range(16, 32))
