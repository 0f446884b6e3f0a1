"""The methods: each finds what was planted, and equals a closed form or another library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.edits.sae_codes import written
from pilothouse.errors import ConfigError
from pilothouse.training.methods import (
    METHODS,
    FeatureSelection,
    Sample,
    mean_difference,
    principal_difference,
    register,
    ridge_direction,
)
from tests.support.artifacts import sae_files as files
from tests.support.training.planted_samples import cosine, planted

NAMES = ["difference-of-means", "pca", "ridge"]


def test_these_are_all_methods() -> None:
    assert set(METHODS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_direction_is_found(name: str) -> None:
    sample, unit_D = planted(pairs=2000)
    assert cosine(METHODS[name](sample).direction_D, unit_D) >= 0.99


@pytest.mark.parametrize("name", NAMES)
def test_it_points_at_the_positives(name: str) -> None:
    sample, unit_D = planted()
    turned = Sample(sample.negative_NF, sample.positive_NF, sample.groups_N)
    assert cosine(METHODS[name](turned).direction_D, unit_D) < -0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_of_one_closes_the_mean_gap_along_it(name: str) -> None:
    sample, _ = planted()
    direction_D = METHODS[name](sample).direction_D
    gap = (sample.positive_NF - sample.negative_NF).mean(axis=0) @ direction_D
    assert gap == pytest.approx(direction_D @ direction_D, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_equal_sides_are_refused(name: str) -> None:
    sample, _ = planted(pairs=10)
    with pytest.raises(ConfigError):
        METHODS[name](Sample(sample.positive_NF, sample.positive_NF, sample.groups_N))


def test_the_difference_of_means_is_one_of_means() -> None:
    sample, _ = planted(pairs=7)
    wanted = np.mean(sample.positive_NF, axis=0) - np.mean(sample.negative_NF, axis=0)
    assert mean_difference(sample).direction_D == pytest.approx(wanted)


def test_pca_is_sklearns_on_differences_and_their_mirror() -> None:
    sample, _ = planted(pairs=50)
    differences = sample.positive_NF - sample.negative_NF
    oracle = PCA(1).fit(np.concatenate([differences, -differences]))
    fitted = principal_difference(sample)
    assert abs(cosine(fitted.direction_D, oracle.components_[0])) == pytest.approx(1, abs=1e-9)
    assert fitted.facts["explained_share"] == pytest.approx(oracle.explained_variance_ratio_[0])


def test_pca_does_not_hang_on_which_side_is_which_in_a_pair() -> None:
    sample, _ = planted(pairs=50)
    flip = np.random.default_rng(1).random(50) < 0.3
    mixed = Sample(
        np.where(flip[:, None], sample.negative_NF, sample.positive_NF),
        np.where(flip[:, None], sample.positive_NF, sample.negative_NF),
        sample.groups_N,
    )
    one, other = (principal_difference(each).direction_D for each in (sample, mixed))
    assert abs(cosine(one, other)) == pytest.approx(1, abs=1e-9)


def test_ridge_is_sklearns_at_the_chosen_c() -> None:
    sample, _ = planted(pairs=60, gap=1.0)
    fitted = ridge_direction(sample)
    states = np.concatenate([sample.positive_NF, sample.negative_NF])
    scaler = StandardScaler().fit(states)
    oracle = LogisticRegression(C=fitted.facts["ridge_c"], max_iter=2000, tol=1e-8)
    oracle.fit(scaler.transform(states), np.repeat([1, 0], 60))
    assert cosine(fitted.direction_D, oracle.coef_[0] / scaler.scale_) >= 0.9999


def test_ridge_chooses_on_groups_it_did_not_fit() -> None:
    """Each group has a direction of its own: known groups tell all, unknown ones nothing."""
    generator = np.random.default_rng(0)
    own_GD = np.repeat(generator.normal(size=(30, 60)), 4, axis=0)
    noise = 0.01 * generator.normal(size=(2, 120, 60))
    groups = np.repeat(np.arange(30), 4).astype(str)
    sample = Sample(own_GD + noise[0], -own_GD + noise[1], groups)
    assert ridge_direction(sample).facts["held_out_auroc"] < 0.8
    alone = Sample(sample.positive_NF, sample.negative_NF, np.arange(120).astype(str))
    assert ridge_direction(alone).facts["held_out_auroc"] > 0.95


def test_a_method_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="twice"):
        register("pca", principal_difference)


COUNT = 30


@pytest.fixture
def sae(tmp_path: Path) -> Sae:
    place = files.saelens(tmp_path / "world", files.book("jumprelu"))
    files.write_json(place / "labels.json", {"3": "the tide"})
    return load_sae("world", place, "saelens")


def sample(**gaps: float) -> Sample:
    """Codes that differ by the named features' gaps and by little else."""
    draw = np.random.default_rng(0)
    negative = np.abs(draw.normal(size=(COUNT, files.FEATURES)))
    positive = negative.copy()
    for name, gap in gaps.items():
        positive[:, int(name[1:])] += gap
    return Sample(positive, negative, np.arange(COUNT).astype(str))


def test_the_strongest_rare_features_are_named_and_summed(sae: Sae) -> None:
    rates = np.zeros(files.FEATURES)
    rates[9] = 0.5
    fitted = FeatureSelection(sae, rates, 2)(sample(f3=2.0, f9=9.0, f12=1.0, f20=0.5, f21=-4.0))
    assert [(each["feature"], each["label"]) for each in fitted.facts["features"]] == [
        (3, "the tide"),
        (12, None),
    ]
    assert [each["gap"] for each in fitted.facts["features"]] == pytest.approx([2.0, 1.0])
    codes = np.zeros((1, files.FEATURES))
    codes[0, [3, 12]] = 1.0
    assert fitted.direction_D == pytest.approx(written(sae, codes)[0])


def test_without_the_filter_the_common_feature_would_win(sae: Sae) -> None:
    given = sample(f3=2.0, f9=9.0)
    unfiltered = FeatureSelection(sae, np.zeros(files.FEATURES), 1)(given)
    assert unfiltered.facts["features"][0]["feature"] == 9


def test_features_that_are_weaker_in_positives_are_never_taken(sae: Sae) -> None:
    rates = np.zeros(files.FEATURES)
    assert len(FeatureSelection(sae, rates, 5)(sample(f3=1.0)).facts["features"]) == 1
    with pytest.raises(ConfigError, match="no feature of world"):
        FeatureSelection(sae, rates, 5)(sample(f3=-1.0))
