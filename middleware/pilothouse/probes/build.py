"""From captured activations to a probe's folder: fit, calibrate, evaluate, write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pilothouse.artifacts.probe import Probe, build_probe, save_probe
from pilothouse.errors import ConfigError
from pilothouse.probes.card import render_card
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.evaluate import Splits, baseline_scores, left_out_families, split_report
from pilothouse.probes.readout import MeasuredReadout, calibrated_readout, token_calibration
from pilothouse.probes.recipe import Recipe
from pilothouse.probes.report import Evaluation, TrialReport
from pilothouse.probes.split import shuffled_labels, split_by_group
from pilothouse.probes.sweep import Sweep, Trial, sweep

CARD_FILE = "README.md"
RECIPE_FILE = "recipe.json"
EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, slots=True, eq=False)
class FittedProbe:
    """A probe, how it was made, and how good it is."""

    probe: Probe
    recipe: Recipe
    evaluation: Evaluation


def fit_probe(
    recipe: Recipe,
    *,
    fit: Dataset,
    calibration: Dataset,
    test: Dataset,
    model_id: str,
    created_by: str,
) -> FittedProbe:
    """Choose and fit a row on `fit`, calibrate on `calibration`, measure on `test`.

    The three must share no group. `fit` is split by group into training and validation data. One
    thread is used: the problems are small, and threads that share cores slow them many times over.

    Raises:
        ConfigError: data that lack a class or a layer, or that share a group.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    _refuse_shared_groups(fit, calibration, test)
    with threadpool_limits(limits=1):
        return _fit_probe(recipe, fit, calibration, test, model_id, created_by)


def _fit_probe(
    recipe: Recipe,
    fit: Dataset,
    calibration: Dataset,
    test: Dataset,
    model_id: str,
    created_by: str,
) -> FittedProbe:
    if recipe.shuffle_labels:
        fit = shuffled_labels(fit, recipe.seed)
        calibration = shuffled_labels(calibration, recipe.seed + 1)
    shares = {"train": 1.0 - recipe.validation_share, "validation": recipe.validation_share}
    sides = {
        name: side.scoped(recipe.scope)
        for name, side in split_by_group(fit, shares, recipe.seed).items()
    }
    splits = Splits(sides["train"], sides["validation"], test.scoped(recipe.scope))
    swept = sweep(recipe, splits.train, splits.validation)
    splits = Splits(*(each.with_layers(swept.row.layers) for each in splits))
    scoped_calibration = calibration.scoped(recipe.scope)
    measured = {
        name: calibrated_readout(swept.row, each, recipe, calibration, test)
        for name, each in recipe.readouts.items()
    }
    token = token_calibration(swept.row, scoped_calibration)
    probe = build_probe(
        recipe.name,
        model_id=model_id,
        layers=swept.row.layers,
        weights_LD=swept.row.weights_LD,
        bias=swept.row.bias,
        token_slope=token.slope,
        token_offset=token.offset,
        readouts={name: each.readout for name, each in measured.items()},
        default_readout=swept.chosen.readout,
        created_by=created_by,
    )
    evaluation = _evaluation(recipe, swept, splits, scoped_calibration, measured)
    return FittedProbe(probe, recipe, evaluation)


def write_probe(fitted: FittedProbe, folder: Path) -> None:
    """The whole artefact: weights, manifest, recipe, evaluation and card."""
    save_probe(fitted.probe, folder)
    for name, model in ((RECIPE_FILE, fitted.recipe), (EVALUATION_FILE, fitted.evaluation)):
        text = json.dumps(model.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    card = render_card(fitted.probe.manifest, fitted.evaluation)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def _refuse_shared_groups(fit: Dataset, calibration: Dataset, test: Dataset) -> None:
    names = {"fit": fit, "calibration": calibration, "test": test}
    groups = {name: set(each.groups_N.tolist()) for name, each in names.items()}
    for one, other in combinations(groups, 2):
        shared = groups[one] & groups[other]
        if shared:
            raise ConfigError(
                f"data: {one} and {other} share {len(shared)} groups, such as {min(shared)!r}; "
                "want none, or the figures would flatter the probe"
            )


def _evaluation(
    recipe: Recipe,
    swept: Sweep,
    splits: Splits,
    calibration: Dataset,
    measured: dict[str, MeasuredReadout],
) -> Evaluation:
    families, undone = left_out_families(recipe, swept.chosen, splits)
    return Evaluation(
        probe=recipe.name,
        objective=recipe.objective,
        chosen=_trial_report(swept.chosen),
        sweep=tuple(_trial_report(each) for each in swept.trials),
        splits={
            "train": split_report(splits.train),
            "validation": split_report(splits.validation),
            "calibration": split_report(calibration),
            "test": split_report(splits.test),
        },
        default_readout=swept.chosen.readout,
        readouts={name: each.report for name, each in measured.items()},
        baselines=baseline_scores(recipe, swept.chosen, splits),
        left_out_families=families,
        undone_families=undone,
        shuffled_labels=recipe.shuffle_labels,
    )


def _trial_report(trial: Trial) -> TrialReport:
    return TrialReport.model_validate(trial._asdict())
