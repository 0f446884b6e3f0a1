"""A probe beside what it must beat: baselines, shuffled labels, families left out.

Shapes: M test sequences. All data sets here are cut to the recipe's scope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.probes.baseline import baselines_for
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.readout import score_of
from pilothouse.probes.recipe import Recipe
from pilothouse.probes.report import FamilyReport, Score, SplitReport
from pilothouse.probes.split import shuffled_labels
from pilothouse.probes.sweep import Trial, readout_logits, sweep

SHUFFLED = "shuffled labels"

Floats = NDArray[np.float64]
Scorer = Callable[[Dataset, Dataset, Dataset], Floats]


class Splits(NamedTuple):
    """Data that share no group."""

    train: Dataset
    validation: Dataset
    test: Dataset


def narrowed(recipe: Recipe, chosen: Trial) -> Recipe:
    """The recipe with layers, training and readout as chosen, so that C alone is chosen anew."""
    return recipe.model_copy(
        update={
            "layer_sets": (chosen.layers,),
            "trainings": (chosen.training,),
            "readouts": {chosen.readout: recipe.readouts[chosen.readout]},
        }
    )


def baseline_scores(recipe: Recipe, chosen: Trial, splits: Splits) -> dict[str, Score]:
    """Each baseline on the test data, and the same probe fitted on shuffled labels."""
    scores = {
        name: score_of(scorer(*splits), splits.test, recipe.seed)
        for name, scorer in baselines_for(*splits).items()
    }
    control = splits._replace(
        train=shuffled_labels(splits.train, recipe.seed),
        validation=shuffled_labels(splits.validation, recipe.seed + 1),
    )
    scores[SHUFFLED] = score_of(_refitted(recipe, chosen, control), splits.test, recipe.seed)
    return scores


def left_out_families(
    recipe: Recipe, chosen: Trial, splits: Splits
) -> tuple[tuple[FamilyReport, ...], tuple[str, ...]]:
    """For each family the probe and the baselines fitted without it; and families left undone.

    Layers, training and readout stay as chosen with all families; C is chosen anew. A family is
    undone where the data without it, or the test data with it, lack a class.
    """
    wanted = recipe.left_out_families
    families = sorted(set(splits.test.families_N.tolist())) if wanted is None else wanted
    done, undone = [], []
    for family in families:
        report = _left_out(recipe, chosen, splits, family)
        if report is None:
            undone.append(family)
        else:
            done.append(report)
    return tuple(done), tuple(undone)


def split_report(dataset: Dataset) -> SplitReport:
    """How much there is of everything."""
    return SplitReport(
        sequences=len(dataset),
        positives=int(dataset.labels_N.sum()),
        groups=len(set(dataset.groups_N.tolist())),
        tokens=int(dataset.starts[-1]),
    )


def _left_out(recipe: Recipe, chosen: Trial, splits: Splits, family: str) -> FamilyReport | None:
    inside = splits.test.families_N == family
    labels = splits.test.labels_N
    classes = set(labels[inside].tolist())
    paired = len(classes) == 1
    if paired:
        inside = inside | (labels != classes.copy().pop())
    without = Splits(
        train=splits.train.select(splits.train.families_N != family),
        validation=splits.validation.select(splits.validation.families_N != family),
        test=splits.test.select(inside),
    )
    if not classes or any(len(set(each.labels_N.tolist())) < 2 for each in without):
        return None
    return FamilyReport(
        family=family,
        paired_with_others=paired,
        probe=score_of(_refitted(recipe, chosen, without), without.test, recipe.seed),
        baselines={
            name: score_of(scorer(*without), without.test, recipe.seed)
            for name, scorer in baselines_for(*without).items()
        },
    )


def _refitted(recipe: Recipe, chosen: Trial, splits: Splits) -> Floats:
    narrow = narrowed(recipe, chosen)
    row = sweep(narrow, splits.train, splits.validation).row
    return readout_logits(row, splits.test, recipe.readouts[chosen.readout].aggregate)
