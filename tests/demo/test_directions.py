"""Directions are fitted layer by layer, and their controls have the same lengths."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.demo.directions import States, control_name, fit_directions, vector_of

LAYERS, PAIRS, WIDTH = (3, 5), 24, 16
GROUPS = [f"group {each}" for each in range(PAIRS)]


@pytest.fixture
def states() -> States:
    generator = np.random.default_rng(0)
    negative_LNF = generator.normal(size=(len(LAYERS), PAIRS, WIDTH))
    planted_L1D = np.zeros((len(LAYERS), 1, WIDTH))
    planted_L1D[0, 0, 2], planted_L1D[1, 0, 7] = 6.0, -6.0
    positive_LNF = negative_LNF + planted_L1D + 0.1 * generator.normal(size=negative_LNF.shape)
    return States(positive_LNF, negative_LNF, np.array([4.0, 5.0]))


def test_each_layer_has_its_own_direction(states: States) -> None:
    fitted_LD = fit_directions(states, LAYERS, GROUPS, draws=2, seed=0).fitted_LD
    assert [int(np.argmax(np.abs(each_D))) for each_D in fitted_LD] == [2, 7]
    assert fitted_LD[0, 2] > 0 > fitted_LD[1, 7]


def test_controls_have_the_lengths_of_the_direction_and_point_elsewhere(states: States) -> None:
    found = fit_directions(states, LAYERS, GROUPS, draws=2, seed=0)
    names = {control_name(kind, draw) for kind in ("random", "shuffled") for draw in range(2)}
    assert found.controls.keys() == names
    length_L = np.linalg.norm(found.fitted_LD, axis=1)
    for each_LD in found.controls.values():
        np.testing.assert_allclose(np.linalg.norm(each_LD, axis=1), length_L)
        cosine_L = (each_LD * found.fitted_LD).sum(axis=1) / length_L**2
        assert (np.abs(cosine_L) < 0.9).all()


def test_the_seed_settles_the_controls_and_not_the_direction(states: States) -> None:
    one, same, other = (
        fit_directions(states, LAYERS, GROUPS, draws=1, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.controls["random-0"], same.controls["random-0"])
    assert (one.controls["random-0"] != other.controls["random-0"]).any()
    np.testing.assert_array_equal(one.fitted_LD, other.fitted_LD)


def test_a_layer_has_the_same_direction_and_controls_whatever_others_are_fitted(
    states: States,
) -> None:
    second = States(states.positive_LNF[1:], states.negative_LNF[1:], states.norms_L[1:])
    only = fit_directions(second, LAYERS[1:], GROUPS, draws=1, seed=0)
    both = fit_directions(states, LAYERS, GROUPS, draws=1, seed=0)
    np.testing.assert_array_equal(only.fitted_LD[0], both.fitted_LD[1])
    np.testing.assert_array_equal(only.controls["random-0"][0], both.controls["random-0"][1])


def test_the_scale_has_the_distance_between_the_sides_and_what_lies_in_the_middle(
    states: States,
) -> None:
    fitted_LD = fit_directions(states, LAYERS, GROUPS, draws=1, seed=0).fitted_LD
    scale = states.scale(fitted_LD, LAYERS)
    for row, layer in enumerate(LAYERS):
        unit_D = fitted_LD[row] / np.linalg.norm(fitted_LD[row])
        high, low = (
            float((side_LNF[row].mean(axis=0) * unit_D).sum() / states.norms_L[row])
            for side_LNF in (states.positive_LNF, states.negative_LNF)
        )
        assert scale.gap[layer] == pytest.approx(high - low)
        assert scale.centre[layer] == pytest.approx((high + low) / 2)


def test_the_report_is_of_the_layers_that_are_wanted(states: States) -> None:
    found = fit_directions(states, LAYERS, GROUPS, draws=1, seed=0).report(LAYERS, LAYERS[1:])
    assert [each["layer"] for each in found] == [LAYERS[1]]


def test_the_vector_says_who_made_it_and_where_it_edits(states: States) -> None:
    found = fit_directions(states, LAYERS, GROUPS, draws=1, seed=0)
    vector = vector_of("glad", found.fitted_LD, found.norms_L, LAYERS, "some-model")
    assert (vector.layers, vector.model_id) == (LAYERS, "some-model")
    assert "difference-of-means" in vector.manifest.created_by
