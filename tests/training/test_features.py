"""SAE features: the planted ones are chosen, what is on in any text is not, rows sum up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.registry import load_sae
from pilothouse.edits.sae_codes import written
from pilothouse.errors import ConfigError
from pilothouse.training.methods import FeatureSelection, Sample
from tests.support.artifacts import sae_files as files

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
