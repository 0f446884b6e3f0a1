"""The sweep chooses on validation data, and the smallest C that is as good as the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilothouse.errors import ConfigError
from pilothouse.probes.dataset import Dataset, Example, dataset_of
from pilothouse.probes.recipe import Recipe
from pilothouse.probes.sweep import sweep
from tests.support.training.planted_activations import SIGNAL_LAYER, planted


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "name": "toy",
        "scope": "prompt",
        "layer_sets": ((1,),),
        "readouts": {"last": {"scope": "prompt", "aggregate": {"kind": "last"}}},
        "trainings": ("last",),
    }
    return Recipe.model_validate(fields | changes)


def drowned(seed: int) -> Dataset:
    """A signal under noise that a second feature shares: a strong ridge cannot take it off."""
    generator = np.random.default_rng(seed)
    examples = []
    for index in range(400):
        label = index % 2 == 0
        noise = generator.normal()
        hidden = np.array([[[0.4 * label + noise + 0.1 * generator.normal(), noise]]])
        examples.append(Example(hidden.astype(np.float32), 1, label, str(index), "f", ""))
    return dataset_of(examples, (1,))


def test_the_smallest_c_within_one_standard_error_is_chosen() -> None:
    swept = sweep(recipe(ridge_cs=(1e3, 1e-6, 30.0, 10.0)), drowned(0), drowned(1))
    by_c = {each.ridge_c: each.objective for each in swept.trials}
    best = max(by_c.values())
    good = {c for c, objective in by_c.items() if objective >= best - swept.standard_error}
    assert 1e-6 not in good
    assert len(good) > 1
    assert swept.chosen.ridge_c == min(good)
    assert 0 < swept.standard_error < 0.02


def test_the_best_layer_wins_and_ties_go_to_fewer_layers() -> None:
    sets = ((2,), (SIGNAL_LAYER, 6), (SIGNAL_LAYER,))
    train, validation = (planted(400, seed, everywhere=True, strength=9.0) for seed in (0, 1))
    swept = sweep(recipe(layer_sets=sets), train, validation)
    top = max(each.objective for each in swept.trials)
    assert {each.layers for each in swept.trials if each.objective == top} >= set(sets[1:])
    assert swept.chosen.layers == (SIGNAL_LAYER,)
    assert swept.row.layers == (SIGNAL_LAYER,)


def test_both_objectives_are_measured() -> None:
    train, validation = planted(400, 0), planted(400, 1)
    found = {
        objective: sweep(
            recipe(
                layer_sets=((SIGNAL_LAYER,),),
                readouts={"max": {"scope": "prompt", "aggregate": {"kind": "max"}}},
                trainings=("max",),
                objective=objective,
            ),
            train,
            validation,
        ).chosen.objective
        for objective in ("auroc", "partial_auroc")
    }
    assert 0.5 < found["partial_auroc"] < found["auroc"] < 1.0


def test_a_layer_that_was_not_captured_is_named() -> None:
    with pytest.raises(ConfigError, match=r"layers: got \[5\]"):
        sweep(recipe(layer_sets=((5,),)), planted(60, 0), planted(60, 1))
