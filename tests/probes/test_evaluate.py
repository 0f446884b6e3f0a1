"""Families left out are left out, and readouts see their scope alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilothouse.probes.dataset import Dataset, Example, dataset_of
from pilothouse.probes.evaluate import Splits, left_out_families
from pilothouse.probes.readout import calibrated_readout
from pilothouse.probes.recipe import Recipe
from pilothouse.probes.sweep import sweep

FIELDS: dict[str, Any] = {
    "name": "toy",
    "scope": "prompt",
    "layer_sets": ((1,),),
    "readouts": {
        "prompt_max": {"scope": "prompt", "aggregate": {"kind": "max"}},
        "output_max": {"scope": "output", "aggregate": {"kind": "max"}},
    },
    "trainings": ("last",),
    "target_fprs": (0.05,),
}
RECIPE = Recipe.model_validate(FIELDS)
D_MODEL = 6


def of_families(seed: int) -> Dataset:
    """Positives of each family show on an axis, and with a word, of the family's own."""
    generator = np.random.default_rng(seed)
    examples = []
    for index in range(600):
        family, label = index % 3, bool(generator.integers(2))
        hidden = generator.normal(size=(4, 1, D_MODEL)).astype(np.float32)
        word = f"word{seed}x{index}"
        if label:
            hidden[-1, 0, family] += 8.0
            word = f"trick{family}"
        group = f"{seed}-{index}"
        examples.append(Example(hidden, 4, label, group, f"family{family}", f"some {word} here"))
    return dataset_of(examples, (1,))


def test_neither_probe_nor_baseline_has_seen_a_left_out_family() -> None:
    splits = Splits(of_families(0), of_families(1), of_families(2))
    swept = sweep(RECIPE, splits.train, splits.validation)
    assert swept.chosen.objective > 0.99
    reports, undone = left_out_families(RECIPE, swept.chosen, splits)
    assert [each.family for each in reports] == ["family0", "family1", "family2"]
    assert undone == ()
    for each in reports:
        assert each.probe.auroc.estimate < 0.7
        assert each.baselines["TF-IDF"].auroc.estimate <= 0.55
        assert each.probe.n_positive + each.probe.n_negative == 200


def of_scopes(seed: int, outputs: int) -> Dataset:
    """The prompt tells; the output, where there is one, has loud tokens in either class."""
    generator = np.random.default_rng(seed)
    examples = []
    for index in range(outputs * 2):
        label = bool(generator.integers(2))
        prompt = generator.normal(size=(3, 1, D_MODEL))
        prompt[-1, 0, 0] += 6.0 * label
        output = generator.normal(size=(5 if index < outputs else 0, 1, D_MODEL))
        output[:, 0, 0] += 30.0 * generator.integers(2)
        hidden = np.concatenate([prompt, output]).astype(np.float32)
        examples.append(Example(hidden, 3, label, f"{seed}-{index}", "f", ""))
    return dataset_of(examples, (1,))


def test_each_readout_is_calibrated_and_measured_in_its_scope() -> None:
    train, validation = of_scopes(0, 100).scoped("prompt"), of_scopes(1, 100).scoped("prompt")
    calibration, test = of_scopes(2, 200), of_scopes(3, 150)
    row = sweep(RECIPE, train, validation).row
    prompt, output = (
        calibrated_readout(row, RECIPE.readouts[name], RECIPE, calibration, test)
        for name in ("prompt_max", "output_max")
    )
    assert prompt.report.score.auroc.estimate > 0.98
    assert output.report.score.auroc.estimate == pytest.approx(0.5, abs=0.15)
    assert (prompt.report.unscored, output.report.unscored) == (0, 150)
    score = output.report.score
    assert score.n_positive + score.n_negative == 150


def test_thresholds_rest_on_the_negatives_of_the_calibration_data() -> None:
    train, validation = of_scopes(0, 100).scoped("prompt"), of_scopes(1, 100).scoped("prompt")
    calibration, test = of_scopes(2, 200), of_scopes(3, 150)
    row = sweep(RECIPE, train, validation).row
    measured = calibrated_readout(row, RECIPE.readouts["prompt_max"], RECIPE, calibration, test)
    (threshold,) = measured.readout.thresholds
    assert threshold.n == int((~calibration.labels_N).sum())
    assert measured.readout.prior == pytest.approx(calibration.labels_N.mean())
    (report,) = measured.report.thresholds
    assert report.tpr is not None
    assert report.tpr.estimate > 0.9
