"""The pool of logged features: the largest code of each, however a request's tokens come."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.plan.spec import LoggedSae
from pilothouse.engine.scheduler.feature_pool import FeaturePool

SHIPS = LoggedSae(
    sae="ships",
    features=(7, 3, 9),
    columns=(2, 3, 4),
    biases=(0.5, -0.25, 0.0),
    thresholds=(0.0, 1.0, 0.5),
    labels=("sails", None, "anchors"),
)
MOODS = LoggedSae(
    sae="moods", features=(1,), columns=(0,), biases=(0.0,), thresholds=(0.0,), labels=(None,)
)
TOKENS = 12
SCORES_TE = np.random.default_rng(5).normal(size=(TOKENS, 5)).astype(np.float32)


def pool() -> FeaturePool:
    made = FeaturePool([SHIPS, MOODS])
    made.grow(3)
    return made


def fed(cuts: list[int]) -> FeaturePool:
    made, row = pool(), np.array([1])
    made.open(1)
    for start, stop in itertools.pairwise([0, *sorted(set(cuts)), TOKENS]):
        tokens = np.arange(start, stop)
        if len(tokens) == 1:
            made.take(row, tokens, SCORES_TE)
        else:
            made.take_runs(row, np.array([len(tokens)]), tokens, SCORES_TE)
    return made


def expected(sae: LoggedSae) -> dict[int, float]:
    codes = {}
    known = zip(sae.features, sae.columns, sae.biases, sae.thresholds, strict=True)
    for feature, column, bias, threshold in known:
        z_T = SCORES_TE[:, column] + np.float32(bias)
        codes[feature] = float(np.where(z_T > threshold, z_T, 0.0).max())
    return {feature: code for feature, code in codes.items() if code > 0}


@given(st.lists(st.integers(1, TOKENS - 1), max_size=6))
def test_any_cut_of_the_tokens_gives_the_largest_codes(cuts: list[int]) -> None:
    made = fed(cuts)
    for sae in (SHIPS, MOODS):
        found = made.top(1, sae.sae, sae.features, 10)
        assert {each.feature: each.code for each in found} == expected(sae)
        assert [each.code for each in found] == sorted((e.code for e in found), reverse=True)


def test_the_top_is_of_the_wanted_features_and_carries_their_labels() -> None:
    found = fed([]).top(1, "ships", (7, 9), 1)
    best = max((7, 9), key=lambda feature: expected(SHIPS)[feature])
    assert [(each.feature, each.label) for each in found] == [
        (best, {7: "sails", 9: "anchors"}[best])
    ]


def test_rows_of_other_requests_stay_as_they_are() -> None:
    made = fed([])
    assert made.top(0, "ships", SHIPS.features, 3) == made.top(2, "ships", SHIPS.features, 3) == []
    made.open(1)
    assert made.top(1, "ships", SHIPS.features, 3) == []


def test_a_score_that_is_not_finite_counts_as_not_on() -> None:
    made, broken_TE = pool(), SCORES_TE[:2].copy()
    broken_TE[:, 2:] = [[np.nan, np.inf, -np.inf], [np.inf, np.nan, np.nan]]
    made.take_runs(np.array([1]), np.array([2]), np.arange(2), broken_TE)
    assert made.top(1, "ships", SHIPS.features, 3) == []
