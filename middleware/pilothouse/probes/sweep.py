"""The sweep: every layer set, training, C and readout, judged on validation groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import ReadoutAggregate
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.fit import Training, candidate_rows
from pilothouse.probes.metrics import Metric, auroc, bootstrap_draws, partial_auroc
from pilothouse.probes.recipe import Objective, Recipe
from pilothouse.probes.score import Row, sequence_logits, token_logits

STANDARD_ERROR_RESAMPLES = 200

OBJECTIVES: Mapping[Objective, Metric] = {"auroc": auroc, "partial_auroc": partial_auroc}


class Trial(NamedTuple):
    """One row and readout, and what the validation groups say of them."""

    layers: tuple[int, ...]
    training: Training
    ridge_c: float
    readout: str
    objective: float


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """All trials, the chosen one, and its row."""

    trials: tuple[Trial, ...]
    chosen: Trial
    row: Row
    standard_error: float


class _Fitted(NamedTuple):
    trial: Trial
    row: Row
    logits_N: NDArray[np.float64]


def sweep(recipe: Recipe, train: Dataset, validation: Dataset) -> Sweep:
    """Fit on `train`, choose on `validation`; both must be cut to the recipe's scope.

    The best objective picks layers, training and readout (ties: fewer layers, then the order of
    the recipe); among its Cs the smallest within one standard error wins.

    Raises:
        ConfigError: a layer that was not captured, or a class that is missing.
    """
    fitted = [
        each
        for layers in recipe.layer_sets
        for training in recipe.trainings
        for each in _fit(recipe, train, validation, layers, training)
    ]
    best = max(fitted, key=lambda each: (each.trial.objective, -len(each.trial.layers)))
    metric = OBJECTIVES[recipe.objective]
    error = float(
        bootstrap_draws(
            metric,
            best.logits_N,
            validation.labels_N,
            validation.groups_N,
            seed=recipe.seed,
            resamples=STANDARD_ERROR_RESAMPLES,
        ).std()
    )
    rivals = [each for each in fitted if _differ_in_c_alone(each.trial, best.trial)]
    good = [each for each in rivals if each.trial.objective >= best.trial.objective - error]
    chosen = min(good, key=lambda each: (each.trial.ridge_c, -each.trial.objective))
    return Sweep(tuple(each.trial for each in fitted), chosen.trial, chosen.row, error)


def _fit(
    recipe: Recipe,
    train: Dataset,
    validation: Dataset,
    layers: tuple[int, ...],
    training: Training,
) -> list[_Fitted]:
    """For each C and competing readout the best of the training's rows."""
    metric = OBJECTIVES[recipe.objective]
    best: dict[tuple[float, str], _Fitted] = {}
    ridge_cs = sorted(recipe.ridge_cs)
    for ridge_c, row in candidate_rows(train, layers, training, ridge_cs, recipe.seed):
        logits_T = token_logits(row, validation)
        for name, aggregate in recipe.competing.items():
            logits_N = sequence_logits(logits_T, validation.starts, aggregate)
            objective = metric(logits_N, validation.labels_N)
            key = (ridge_c, name)
            if key not in best or objective > best[key].trial.objective:
                trial = Trial(layers, training, ridge_c, name, objective)
                best[key] = _Fitted(trial, row, logits_N)
    return list(best.values())


def _differ_in_c_alone(one: Trial, other: Trial) -> bool:
    return (one.layers, one.training, one.readout) == (other.layers, other.training, other.readout)


def readout_logits(row: Row, dataset: Dataset, aggregate: ReadoutAggregate) -> NDArray[np.float64]:
    """logits_N of a row under a readout, over a data set cut to the readout's scope."""
    return sequence_logits(token_logits(row, dataset), dataset.starts, aggregate)
