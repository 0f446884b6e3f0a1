"""The strongest features of codes: by size, each at its strongest token, none that is off."""

from __future__ import annotations

import numpy as np

from pilothouse.edits.sae_codes import TopFeature, top_features


def test_a_feature_counts_where_it_is_strongest() -> None:
    codes_TM = np.array([[0.5, 0.0, 3.0], [2.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert top_features(codes_TM, 5) == [TopFeature(2, 3.0, 0, 2), TopFeature(0, 2.0, 1, 3)]


def test_negative_codes_count_by_their_size() -> None:
    codes_TM = np.array([[-4.0, 1.0], [3.0, 2.0]])
    assert top_features(codes_TM, 2) == [TopFeature(0, -4.0, 0, 2), TopFeature(1, 2.0, 1, 2)]


def test_no_more_than_asked_and_lower_numbers_first_among_equals() -> None:
    assert top_features(np.ones((2, 9)), 2) == [TopFeature(0, 1.0, 0, 2), TopFeature(1, 1.0, 0, 2)]


def test_nothing_is_on_in_no_tokens() -> None:
    assert top_features(np.zeros((0, 4)), 3) == []
    assert top_features(np.zeros((2, 4)), 3) == []
