"""Every operator against its textbook definition, alone and together.

Shapes: T tokens, D width, K directions, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pilothouse.artifacts.transform import UNBOUNDED, Transform, build_transform
from pilothouse.edits.operators import OPERATORS, register
from pilothouse.edits.program import compile_program, growth
from pilothouse.edits.sources import ReadRow, Sources
from pilothouse.errors import ConfigError, RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap
from tests.reference import operators as oracle
from tests.support.artifacts.folders import D_MODEL, vector

LAYER = 2
NORM = 3.0
TOKENS = 12
AT = Tap(LAYER, "resid_post")
draw = np.random.default_rng(7)


def transform(name: str, form: Any, arrays: dict[str, NDArray[np.float64]]) -> Transform:
    return build_transform(
        name,
        form=form,
        model_id="demo",
        layers=(LAYER,),
        arrays={key: each[None].astype(np.float32) for key, each in arrays.items()},
        residual_norms_L=np.array([NORM], np.float32),
        created_by="a test",
    )


def orthonormal(count: int) -> NDArray[np.float64]:
    return np.linalg.qr(draw.normal(size=(D_MODEL, count)))[0].T


SPAN, PLANE, ROTATION = orthonormal(3), orthonormal(2), orthonormal(4)
LEARNED, LEARNED_BIAS = draw.normal(size=(4, D_MODEL)), draw.normal(size=4)
WEIGHT, BIAS = draw.uniform(0.5, 1.5, D_MODEL), draw.normal(size=D_MODEL)
LOW, HIGH = np.full(D_MODEL, -0.8), np.full(D_MODEL, 0.9)
READ = draw.normal(size=D_MODEL)
A, B = vector("a", 1, (LAYER, 4)), vector("b", 2, (LAYER, 6))
UNBOUNDED_D = np.full(D_MODEL, UNBOUNDED)
SOURCES = Sources(
    {
        "a": A,
        "b": B,
        "span": transform("span", "subspace", {"basis": SPAN}),
        "plane": transform("plane", "plane", {"basis": PLANE}),
        "reft": transform(
            "reft",
            "lowrank",
            {"read": LEARNED - ROTATION, "write": ROTATION, "bias": LEARNED_BIAS},
        ),
        "act": transform(
            "act", "diagonal", {"weight": WEIGHT - 1, "bias": BIAS, "low": LOW, "high": HIGH}
        ),
        "scaled": transform(
            "scaled",
            "diagonal",
            {
                "weight": np.eye(D_MODEL)[3] * 0.5,
                "bias": np.zeros(D_MODEL),
                "low": -UNBOUNDED_D,
                "high": UNBOUNDED_D,
            },
        ),
    },
    {"p": {AT: ReadRow(READ.astype(np.float32), 0.25)}},
)
a_D, b_D = (each.direction_D(LAYER).astype(np.float64) for each in (A, B))
HIDDEN = draw.normal(size=(TOKENS, D_MODEL)).astype(np.float32)
h_TD = HIDDEN.astype(np.float64)


def edited(*terms: dict[str, Any], hidden: Any = HIDDEN) -> NDArray[np.float64]:
    """What the program of some terms makes of tokens at LAYER."""
    program = compile_program([SteerTerm.model_validate(each) for each in terms], SOURCES)
    if program is None or AT not in program.layers:
        return np.asarray(hidden, np.float64)
    return program.layers[AT].apply(hidden, program.coefficient)


def unit(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return v / np.linalg.norm(v)


EACH: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "add": ({"vector": "a", "scale": 1.5}, lambda h: oracle.add(h, a_D, 1.5)),
    "add unit": (
        {"vector": "a", "scale": -2.0, "unit": "unit"},
        lambda h: oracle.add(h, unit(a_D), -2.0),
    ),
    "add in token units": (
        {"vector": "a", "scale": -0.6, "unit": "token"},
        lambda h: oracle.relative_add(h, a_D, -0.6),
    ),
    "add below": (
        {"vector": "a", "op": "add_below", "scale": 1.5, "value": 0.2},
        lambda h: oracle.add_below(h, a_D, 1.5, 0.2),
    ),
    "add below in norms": (
        {"vector": "a", "op": "add_below", "scale": -0.4, "value": -0.1, "unit": "residual"},
        lambda h: oracle.add_below(
            h, unit(a_D) * A.residual_norm(LAYER), -0.4, -0.1 * A.residual_norm(LAYER)
        ),
    ),
    "ablate": ({"vector": "a", "op": "ablate"}, lambda h: oracle.ablate(h, a_D)),
    "ablate in part": (
        {"vector": "a", "op": "ablate", "scale": 0.4},
        lambda h: oracle.ablate(h, a_D, 0.4),
    ),
    "ablate subspace": ({"vector": "span"}, lambda h: oracle.ablate(h, SPAN)),
    "reflect": ({"vector": "a", "op": "reflect"}, lambda h: oracle.reflect(h, a_D)),
    "reflect subspace": (
        {"vector": "span", "op": "reflect"},
        lambda h: oracle.reflect(h, SPAN),
    ),
    "set": (
        {"vector": "a", "op": "set", "value": 0.7},
        lambda h: oracle.set_projection(h, a_D, 0.7),
    ),
    "set in norms": (
        {"vector": "a", "op": "set", "value": -0.5, "unit": "residual"},
        lambda h: oracle.set_projection(h, a_D, -0.5 * A.residual_norm(LAYER)),
    ),
    "floor": (
        {"vector": "a", "op": "floor", "value": 0.1},
        lambda h: oracle.floor_projection(h, a_D, 0.1),
    ),
    "cap": (
        {"vector": "a", "op": "cap", "value": -0.4},
        lambda h: oracle.cap_projection(h, a_D, -0.4),
    ),
    "affine": (
        {"vector": "a", "op": "affine", "scale": 0.3, "value": 1.1},
        lambda h: oracle.affine(h, a_D, 0.3, 1.1),
    ),
    "rotate": (
        {"vector": "plane", "value": 70.0},
        lambda h: oracle.rotate(h, PLANE, 70.0),
    ),
    "rotate adaptively": (
        {"vector": "plane", "op": "rotate_adaptive", "value": 110.0},
        lambda h: oracle.rotate_adaptive(h, PLANE, 110.0),
    ),
    "slerp": (
        {"vector": "a", "op": "slerp", "scale": 0.3},
        lambda h: oracle.slerp(h, a_D, 0.3),
    ),
    "slerp all the way": (
        {"vector": "b", "op": "slerp", "scale": 1.0},
        lambda h: oracle.slerp(h, b_D, 1.0),
    ),
    "LoReFT": (
        {"vector": "reft"},
        lambda h: oracle.loreft(h, ROTATION, LEARNED, LEARNED_BIAS),
    ),
    "AcT": (
        {"vector": "act", "scale": 0.6},
        lambda h: oracle.linear_transport(h, WEIGHT, BIAS, LOW, HIGH, 0.6),
    ),
    "neuron scaled": (
        {"vector": "scaled"},
        lambda h: h + 0.5 * np.eye(D_MODEL)[3] * h,
    ),
    "replace": ({"vector": "a", "op": "replace"}, lambda h: a_D + 0 * h),
    "token gate": (
        {
            "vector": "a",
            "scale": 2.0,
            "layers": (LAYER,),
            "gate": {"probe": "p", "above": 0.2, "sharpness": 3.0},
        },
        lambda h: oracle.gated_add(h, a_D, 2.0, float(READ @ h) + 0.25, 0.2, 3.0),
    ),
    "norm restored": (
        {"vector": "a", "scale": 1.5, "restore_norm": True},
        lambda h: oracle.restored(h, oracle.add(h, a_D, 1.5)),
    ),
    "only shortened": (
        {"vector": "a", "scale": 1.5, "restore_norm": "if_longer"},
        lambda h: oracle.shortened(h, oracle.add(h, a_D, 1.5)),
    ),
}


@pytest.mark.parametrize("name", EACH)
def test_an_operator_is_what_its_paper_says(name: str) -> None:
    term, definition = EACH[name]
    wanted_TD = oracle.as_tokens(definition, h_TD)
    assert np.abs(wanted_TD - h_TD).max() > 0.05, "the case would not show a mistake"
    assert np.abs(edited(term) - wanted_TD).max() < 1e-5


def test_every_operator_has_a_case() -> None:
    named = {str(term.get("op")) for term, _ in EACH.values()} | {"add", "rotate", "apply"}
    assert set(OPERATORS) <= named


def test_no_two_edits_share_what_the_prefix_cache_knows_them_by() -> None:
    terms = [[term] for term, _ in EACH.values()]
    terms += [[{"vector": "a", "op": "slerp", "scale": share}] for share in (0.31, 0.9)]
    terms += [[{"vector": "plane", "op": "rotate_adaptive", "value": 111.0}]]
    terms += [[{"vector": "a", "op": "add_below", "scale": 1.5, "value": 0.3}]]
    keys = set()
    for each in terms:
        program = compile_program([SteerTerm.model_validate(term) for term in each], SOURCES)
        assert program is not None
        keys.add((program.digest, program.coefficient))
    assert len(keys) == len(terms)


tokens = st.lists(
    st.lists(st.floats(-50, 50, width=32), min_size=D_MODEL, max_size=D_MODEL),
    min_size=1,
    max_size=4,
).map(lambda rows: np.array(rows, np.float32))


@given(tokens)
def test_ablate_leaves_no_component_along_the_direction(hidden: NDArray[np.float32]) -> None:
    left_T = edited({"vector": "a", "op": "ablate"}, hidden=hidden) @ unit(a_D)
    assert np.abs(left_T).max() < 1e-4


@given(tokens)
def test_ablating_two_directions_leaves_neither(hidden: NDArray[np.float32]) -> None:
    out_TD = edited({"vector": "a", "op": "ablate"}, {"vector": "b", "op": "ablate"}, hidden=hidden)
    wanted_TD = oracle.as_tokens(oracle.ablate, hidden.astype(np.float64), np.stack([a_D, b_D]))
    assert np.abs(out_TD - wanted_TD).max() < 1e-3


@given(tokens, st.floats(-5, 5), st.floats(-5, 5))
def test_two_coordinates_set_at_once_are_both_what_was_asked(
    hidden: NDArray[np.float32], one: float, other: float
) -> None:
    out_TD = edited(
        {"vector": "a", "op": "set", "value": one},
        {"vector": "b", "op": "set", "value": other},
        hidden=hidden,
    )
    assert np.abs(out_TD @ unit(a_D) - one).max() < 1e-3
    assert np.abs(out_TD @ unit(b_D) - other).max() < 1e-3


@given(tokens)
def test_reflecting_twice_gives_the_token_back(hidden: NDArray[np.float32]) -> None:
    once = edited({"vector": "a", "op": "reflect"}, hidden=hidden).astype(np.float32)
    assert np.abs(edited({"vector": "a", "op": "reflect"}, hidden=once) - hidden).max() < 1e-3


@given(tokens)
def test_a_turn_keeps_the_length(hidden: NDArray[np.float32]) -> None:
    out_TD = edited({"vector": "plane", "value": 33.0}, hidden=hidden)
    before, after = (
        np.linalg.norm(hidden.astype(np.float64), axis=1),
        np.linalg.norm(out_TD, axis=1),
    )
    assert np.abs(before - after).max() < 1e-3


@given(tokens, st.floats(0.01, 1.0))
def test_a_slerp_keeps_the_length_and_goes_its_share_of_the_angle(
    hidden: NDArray[np.float32], share: float
) -> None:
    exact_TD = hidden.astype(np.float64)
    out_TD = edited({"vector": "a", "op": "slerp", "scale": share}, hidden=hidden)
    lengths_T = np.linalg.norm(exact_TD, axis=1)
    assert np.abs(np.linalg.norm(out_TD, axis=1) - lengths_T).max() < 1e-3
    for h, out, length in zip(exact_TD, out_TD, lengths_T, strict=True):
        before, after = (
            np.arctan2(np.linalg.norm(x - unit(a_D) * (unit(a_D) @ x)), unit(a_D) @ x)
            for x in (h, out)
        )
        if length > 1e-3 and before < np.pi - 1e-2:
            assert abs(after - (1 - share) * before) < 1e-3


def test_a_token_that_points_the_opposite_way_has_no_shortest_way_and_stays() -> None:
    opposite = (-2.0 * a_D[None]).astype(np.float32)
    assert np.array_equal(
        edited({"vector": "a", "op": "slerp", "scale": 0.5}, hidden=opposite), opposite
    )


def test_some_tokens_are_turned_adaptively_and_some_are_left() -> None:
    leans_T = h_TD @ PLANE[0].astype(np.float32) > 0
    out_TD = edited({"vector": "plane", "op": "rotate_adaptive", "value": 110.0})
    assert leans_T.any() and not leans_T.all()
    assert np.array_equal((out_TD != h_TD).any(axis=1), leans_T)


def test_the_token_that_is_at_the_limit_gets_nothing() -> None:
    term = {"vector": "a", "op": "add_below", "scale": 2.0, "value": 0.0}
    nothing = np.zeros((1, D_MODEL), np.float32)
    assert np.array_equal(edited(term, hidden=nothing), nothing)
    just_below = (-1e-12 * a_D[None]).astype(np.float32)
    assert np.abs(edited(term, hidden=just_below) - 2.0 * a_D).max() < 1e-5


def test_a_slerp_reads_what_the_diagonal_map_left_and_rows_what_it_left() -> None:
    terms: list[dict[str, Any]] = [
        {"vector": "a", "op": "ablate"},
        {"vector": "b", "op": "slerp", "scale": 0.4},
        {"vector": "act"},
    ]
    wanted_TD = oracle.as_tokens(
        lambda h: oracle.ablate(
            oracle.slerp(oracle.linear_transport(h, WEIGHT, BIAS, LOW, HIGH, 1.0), b_D, 0.4), a_D
        ),
        h_TD,
    )
    assert np.abs(edited(*terms) - wanted_TD).max() < 1e-5
    assert np.array_equal(edited(*terms), edited(*reversed(terms)))


def test_token_units_count_the_length_that_the_token_came_with() -> None:
    terms = ({"vector": "b", "op": "ablate"}, {"vector": "a", "scale": 0.5, "unit": "token"})
    wanted_TD = oracle.as_tokens(
        lambda h: oracle.ablate(h, b_D) + oracle.relative_add(h, a_D, 0.5) - h, h_TD
    )
    assert np.abs(edited(*terms) - wanted_TD).max() < 1e-5


def test_as_long_as_before_is_not_longer_either() -> None:
    terms = (
        {"vector": "a", "scale": -0.5, "restore_norm": "if_longer"},
        {"vector": "b", "scale": 0.5, "restore_norm": True},
    )
    lengths = [np.linalg.norm(each, axis=1) for each in (edited(*terms), h_TD)]
    assert np.allclose(*lengths, rtol=1e-9)


def test_projections_see_what_learned_maps_wrote() -> None:
    both_TD = edited({"vector": "reft"}, {"vector": "a", "op": "set", "value": 0.4})
    assert np.abs(both_TD @ unit(a_D) - 0.4).max() < 1e-4


def test_additions_come_after_projections_and_norms_last() -> None:
    terms: list[dict[str, Any]] = [
        {"vector": "b", "scale": 1.0, "restore_norm": True},
        {"vector": "a", "op": "ablate"},
    ]
    wanted_TD = oracle.as_tokens(
        lambda h: oracle.restored(h, oracle.add(oracle.ablate(h, a_D), b_D, 1.0)), h_TD
    )
    assert np.abs(edited(*terms) - wanted_TD).max() < 1e-5
    assert np.array_equal(edited(*terms), edited(*reversed(terms)))


def test_rows_read_what_the_diagonal_map_left() -> None:
    wanted_TD = oracle.as_tokens(
        lambda h: oracle.ablate(oracle.linear_transport(h, WEIGHT, BIAS, LOW, HIGH, 1.0), a_D),
        h_TD,
    )
    assert (
        np.abs(edited({"vector": "act"}, {"vector": "a", "op": "ablate"}) - wanted_TD).max() < 1e-5
    )


def test_mixed_strengths_are_each_their_own() -> None:
    wanted_TD = oracle.as_tokens(lambda h: oracle.add(oracle.ablate(h, a_D, 0.5), b_D, -4.0), h_TD)
    terms = ({"vector": "a", "op": "ablate", "scale": 0.5}, {"vector": "b", "scale": -4.0})
    assert np.abs(edited(*terms) - wanted_TD).max() < 1e-5


def test_a_share_of_a_way_is_its_own_beside_a_negative_strength() -> None:
    wanted_TD = oracle.as_tokens(lambda h: oracle.add(oracle.slerp(h, a_D, 0.25), b_D, -4.0), h_TD)
    terms = ({"vector": "b", "scale": -4.0}, {"vector": "a", "op": "slerp", "scale": 0.25})
    assert np.abs(edited(*terms) - wanted_TD).max() < 1e-5


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        (({"vector": "act"}, {"vector": "scaled"}), "a second map of single dimensions at layer 2"),
        (
            (
                {"vector": "a", "op": "slerp", "scale": 0.5},
                {"vector": "b", "op": "slerp", "scale": 0.5},
            ),
            "a second slerp at layer 2",
        ),
        (({"vector": "a", "op": "slerp", "scale": 1.5},), "scale of 'a': got 1.5, want a share"),
        (({"vector": "a", "op": "slerp", "scale": -0.5},), "scale of 'a': got -0.5, want a share"),
        (({"vector": "a", "op": "slerp"},), "scale of 'a': got nothing, want a number"),
        (({"vector": "a", "op": "rotate_adaptive", "value": 1.0},), "'a' is a vector"),
        (({"vector": "a", "op": "add_below", "scale": 1.0},), "value of 'a': got nothing, want"),
        (
            ({"vector": "a", "op": "set", "value": 1.0, "unit": "token"},),
            "unit of 'a': got 'token' with 'set', want 'raw', 'unit' or 'residual'",
        ),
        (
            (
                {
                    "vector": "a",
                    "scale": 1.0,
                    "unit": "token",
                    "layers": (LAYER,),
                    "gate": {"probe": "p"},
                },
            ),
            "unit of 'a': got 'token' with a gate",
        ),
        (
            ({"vector": "a", "op": "ablate", "unit": "residual"},),
            "unit of 'a': got 'residual', but 'ablate' counts nothing in it: remove it",
        ),
        (
            ({"vector": "a", "op": "ablate"}, {"vector": "a", "op": "set", "value": 1.0}),
            "projections at layer 2 are on directions that are parallel",
        ),
        (({"vector": "span", "op": "add", "scale": 1.0},), "want one of .*'ablate', 'reflect'"),
        (
            ({"vector": "a", "scale": 1.0, "gate": {"probe": "q"}},),
            r"gate: got probe 'q', want one of \['p'\]",
        ),
        (
            ({"vector": "a", "scale": 1.0, "layers": (4,), "gate": {"probe": "p"}},),
            "probe .p. reads at resid_post of layer 2, want one that reads at .* of layer 4",
        ),
        (
            ({"vector": "a", "op": "ablate", "gate": {"probe": "p"}},),
            "only additions are gated",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(terms: tuple[dict[str, Any], ...], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        edited(*terms)


TAKEN_AT_THEIR_WORD = ("LoReFT", "AcT", "neuron scaled", "replace")


@pytest.mark.parametrize("name", [name for name in EACH if name not in TAKEN_AT_THEIR_WORD])
def test_growth_bounds_how_much_longer_tokens_get(name: str) -> None:
    term, _ = EACH[name]
    [bound] = [
        each for tap, each in growth([SteerTerm.model_validate(term)], SOURCES).items() if tap == AT
    ]
    lengths_T = np.linalg.norm(h_TD, axis=1)
    longer_T = np.linalg.norm(edited(term), axis=1) - lengths_T
    measure_T = lengths_T if term.get("unit") == "token" else A.residual_norm(LAYER)
    assert (longer_T <= bound * measure_T + 1e-4).all()


def test_an_operator_cannot_be_registered_twice() -> None:
    with pytest.raises(ConfigError, match="'add' is registered twice"):
        register("add", OPERATORS["add"])
