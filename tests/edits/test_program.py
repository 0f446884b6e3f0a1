"""Programs: exact sums, digests of content alone."""

from __future__ import annotations

import itertools
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.edits.ops.additions import Additions
from pilothouse.edits.program import compile_program, growth
from pilothouse.edits.sources import Sources
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap, Unit
from tests.reference.additive import added_at
from tests.support.artifacts.folders import D_MODEL, vector

VECTORS = {
    "a": vector("a", 1, (2, 4)),
    "b": vector("b", 2, (4, 6)),
    "c": vector("c", 3, (1, 2, 4)),
}
SOURCES = Sources(MappingProxyType(VECTORS))
LAYERS = (1, 2, 4, 6)
UNITS: tuple[Unit, ...] = ("raw", "unit", "residual")

scales = st.floats(-20, 20).filter(lambda scale: abs(scale) > 1e-3)


@st.composite
def steer_terms(draw: st.DrawFn) -> SteerTerm:
    name = draw(st.sampled_from(sorted(VECTORS)))
    layers = draw(st.none() | st.sets(st.sampled_from(VECTORS[name].layers), min_size=1))
    return SteerTerm(
        vector=name,
        scale=draw(scales),
        unit=draw(st.sampled_from(UNITS)),
        layers=None if layers is None else tuple(sorted(layers)),
    )


term_lists = st.lists(steer_terms(), min_size=1, max_size=4)


@given(term_lists)
def test_coefficient_times_rows_is_the_sum_of_the_terms(terms: list[SteerTerm]) -> None:
    program = compile_program(terms, SOURCES)
    for layer in LAYERS:
        wanted = added_at(terms, VECTORS, layer)
        got = np.zeros(D_MODEL)
        edit = None if program is None else program.layers.get(Tap(layer, "resid_post"))
        if program is not None and edit is not None:
            [additions] = edit.tables
            assert isinstance(additions, Additions)
            assert additions.addition_D.dtype == np.float32
            got = program.coefficient * additions.addition_D.astype(np.float64)
        largest = max(abs(each.scale) for each in terms) * 10
        assert np.allclose(got, wanted, rtol=1e-6, atol=largest * 1e-6)


@given(term_lists, st.floats(0.01, 100))
def test_overall_strength_changes_the_coefficient_alone(
    terms: list[SteerTerm], strength: float
) -> None:
    stronger = [each.model_copy(update={"scale": each.scale * strength}) for each in terms]
    one, other = compile_program(terms, SOURCES), compile_program(stronger, SOURCES)
    if one is None or other is None:
        assert one is other
        return
    assert one.digest == other.digest
    assert other.coefficient == pytest.approx(one.coefficient * strength, rel=1e-12)


@given(term_lists)
def test_the_other_sign_is_the_same_program(terms: list[SteerTerm]) -> None:
    flipped = [each.model_copy(update={"scale": -each.scale}) for each in terms]
    one, other = compile_program(terms, SOURCES), compile_program(flipped, SOURCES)
    if one is None or other is None:
        assert one is other
        return
    assert one.digest == other.digest
    assert one.coefficient == -other.coefficient


@given(term_lists)
def test_names_are_no_part_of_the_digest(terms: list[SteerTerm]) -> None:
    names = dict(zip(sorted(VECTORS), ("x", "y", "z"), strict=True))
    renamed = [each.model_copy(update={"vector": names[each.vector]}) for each in terms]
    other = Sources(MappingProxyType({names[name]: each for name, each in VECTORS.items()}))
    one, two = compile_program(terms, SOURCES), compile_program(renamed, other)
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert one.digest == two.digest


@given(st.lists(steer_terms(), min_size=2, max_size=3))
def test_the_order_of_terms_changes_no_bit(terms: list[SteerTerm]) -> None:
    positive = [each.model_copy(update={"scale": abs(each.scale)}) for each in terms]
    programs = [compile_program(each, SOURCES) for each in itertools.permutations(positive)]
    digests = {None if each is None else each.digest for each in programs}
    assert len(digests) == 1


def test_the_order_of_terms_that_all_but_cancel_changes_no_bit() -> None:
    terms = [
        SteerTerm(vector="a", scale=1e15),
        SteerTerm(vector="b", scale=1.0),
        SteerTerm(vector="c", scale=3.0),
        SteerTerm(vector="a", scale=-1e15),
    ]
    orders = [each for each in itertools.permutations(terms) if each[0].scale > 0]
    programs = [compile_program(each, SOURCES) for each in orders]
    assert len({None if each is None else each.digest for each in programs}) == 1


def only(**fields: object) -> list[SteerTerm]:
    return [SteerTerm.model_validate({"vector": "a", "scale": 2.0} | fields)]


def digest(terms: list[SteerTerm]) -> str:
    program = compile_program(terms, SOURCES)
    assert program is not None
    return program.digest


def test_different_content_has_different_digests() -> None:
    a, b = only()[0], SteerTerm(vector="b", scale=2.0)
    programs = [
        [a],
        [b],
        only(unit="unit"),
        only(unit="residual"),
        only(layers=(2,)),
        only(layers=(4,)),
        [a, b],
        [a, b.model_copy(update={"scale": 1.0})],
        [a, b.model_copy(update={"scale": -2.0})],
    ]
    assert len({digest(each) for each in programs}) == len(programs)


def test_the_same_row_at_another_layer_is_another_program() -> None:
    directions = VECTORS["a"].directions_LD
    one, other = vector("a", 1, (2, 4)), vector("a", 1, (2, 5))
    assert np.array_equal(one.directions_LD, directions)
    assert np.array_equal(other.directions_LD, directions)
    digests = set()
    for each in (one, other):
        program = compile_program(only(), Sources(MappingProxyType({"a": each})))
        assert program is not None
        digests.add(program.digest)
    assert len(digests) == 2


def test_where_the_edit_applies_is_no_part_of_the_digest() -> None:
    assert digest(only(on="prompt")) == digest(only(on="output"))


def test_nothing_added_is_no_program() -> None:
    assert compile_program([], SOURCES) is None
    assert compile_program(only(scale=0.0), SOURCES) is None
    assert compile_program(only() + only(scale=-2.0), SOURCES) is None
    assert growth(only(scale=0.0), SOURCES) == {}


def test_a_zero_term_beside_another_changes_nothing() -> None:
    assert digest([*only(), SteerTerm(vector="b", scale=0.0)]) == digest(only())


def test_the_coefficient_is_the_largest_scale_with_the_first_sign() -> None:
    terms = [SteerTerm(vector="a", scale=-1.0), SteerTerm(vector="b", scale=3.0)]
    program = compile_program(terms, SOURCES)
    assert program is not None
    assert program.coefficient == -3.0


def test_a_scale_in_units_of_the_residual_is_the_growth() -> None:
    ratios = growth(only(unit="residual", scale=-0.3), SOURCES)
    assert {tap.layer: ratio for tap, ratio in ratios.items()} == pytest.approx(
        {2: 0.3, 4: 0.3}, rel=1e-6
    )


@given(term_lists)
def test_the_norm_ratio_is_that_of_the_sum(terms: list[SteerTerm]) -> None:
    ratios = growth(terms, SOURCES)
    for (layer, _), ratio in ratios.items():
        norms = [
            VECTORS[each.vector].residual_norm(layer)
            for each in terms
            if layer in (each.layers or VECTORS[each.vector].layers)
        ]
        length = float(np.linalg.norm(added_at(terms, VECTORS, layer)))
        assert ratio == pytest.approx(length / min(norms), rel=1e-4, abs=1e-4)


def test_rows_cannot_be_changed() -> None:
    program = compile_program(only(), SOURCES)
    assert program is not None
    edit = program.layers[Tap(2, "resid_post")]
    additions = edit.get(Additions)
    assert additions is not None
    with pytest.raises(ValueError, match="read-only"):
        additions.addition_D[0] = 1.0
    with pytest.raises(TypeError):
        program.layers[Tap(9, "resid_post")] = edit  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"vector": "nobody"}, r"vector: got 'nobody', want one of \['a', 'b', 'c'\]"),
        ({"layers": (3,)}, r"layers of 'a': got 3, want any of \[2, 4\]"),
        ({"scale": None}, "scale of 'a': got nothing, want a number for 'add'"),
        ({"op": "rotate"}, r"op of 'a': got 'rotate', want one of \[.*: 'a' is a vector"),
        ({"value": 1.0}, "value of 'a': got 1, but 'add' takes no value"),
        ({"op": "set", "scale": None}, "value of 'a': got nothing, want a number for 'set'"),
        ({"op": "cap", "value": 1.0}, "scale of 'a': got 2, but 'cap' takes no scale"),
    ],
)
def test_what_cannot_be_steered_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        compile_program(only(**fields), SOURCES)
    assert caught.value.param == "steer"
