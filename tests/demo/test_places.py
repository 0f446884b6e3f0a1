"""A dose means the same at every place, and a profile's terms are what was measured."""

from __future__ import annotations

import pytest

from pilothouse.demo.judges.judge import Sign
from pilothouse.demo.places import (
    LAYERS,
    OPENING_TOKENS,
    PLACES,
    Place,
    Scale,
    Steering,
    steering_at,
    steering_in_words,
    terms_of,
)

SCALE = Scale({3: 0.2, 4: 0.4}, {3: 0.05, 4: -0.1})


def test_every_place_lies_where_pairs_are_read() -> None:
    assert all(set(each.layers) <= set(LAYERS) for each in PLACES)
    assert len(set(PLACES)) == len(PLACES)


def test_an_addition_is_shared_out_over_its_layers() -> None:
    assert steering_at(Place((3,)), 2.0, 1, SCALE).strengths == pytest.approx((0.4,))
    both = steering_at(Place((3, 4)), 2.0, 1, SCALE)
    assert len(both.layers) * both.strengths[0] == pytest.approx(2.0 * 0.3)
    assert steering_at(Place((3,)), 2.0, -1, SCALE).strengths == pytest.approx((-0.4,))


@pytest.mark.parametrize(("sign", "how"), [(1, "floor"), (-1, "cap")])
def test_a_bound_is_where_adding_brings_the_other_side(sign: Sign, how: str) -> None:
    found = steering_at(Place((3, 4), is_bound=True), 1.5, sign, SCALE)
    assert found.how == how
    for layer, strength in zip(found.layers, found.strengths, strict=True):
        other_side = SCALE.centre[layer] - sign * SCALE.gap[layer] / 2
        assert strength == pytest.approx(other_side + sign * 1.5 * SCALE.gap[layer])


def test_an_answer_is_steered_from_its_first_token_on() -> None:
    last, output = terms_of(
        "glad", Steering(layers=(3,), how="add", when="answer", strengths=(-0.1,))
    )
    assert (last.on, output.on) == ("prompt", "output")
    assert last.positions is not None
    assert last.positions.indices == (-1,)
    assert output.positions is None
    assert last.scale == output.scale == -0.1
    assert last.layers == output.layers == (3,)


def test_an_opening_ends() -> None:
    steering = Steering(layers=(3,), how="add", when="opening", strengths=(0.1,))
    _, output = terms_of("glad", steering)
    assert output.positions is not None
    assert output.positions.window == (0, OPENING_TOKENS)
    assert str(OPENING_TOKENS) in steering_in_words(steering)


def test_a_bound_has_a_value_of_its_own_at_each_layer() -> None:
    steering = Steering(layers=(4, 6), how="cap", when="answer", strengths=(-0.2, -0.3))
    found = [(each.op, each.layers, each.value, each.scale) for each in terms_of("glad", steering)]
    assert found == 2 * [("cap", (4,), -0.2, None)] + 2 * [("cap", (6,), -0.3, None)]
    assert steering_in_words(steering) == "at most -0.2, -0.3 at layers 4, 6"
