"""From activations to a folder that loads, with figures that were measured."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pilothouse.artifacts.catalog import signals_of
from pilothouse.artifacts.probe import load_probe
from pilothouse.errors import ArtefactError, ConfigError
from pilothouse.library import library_path
from pilothouse.probes.build import FittedProbe, fit_probe, write_probe
from pilothouse.probes.calibration import apply
from pilothouse.probes.card import card_of
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.recipe import Recipe
from pilothouse.probes.score import Row, sequence_logits, token_logits
from tests.support.training.planted_activations import SIGNAL_LAYER, planted

FIELDS: dict[str, Any] = {
    "name": "toy",
    "scope": "prompt",
    "layer_sets": ((2,), (SIGNAL_LAYER,), (2, SIGNAL_LAYER)),
    "readouts": {
        "prompt_max": {"scope": "prompt", "aggregate": {"kind": "max"}},
        "prompt_mean": {"scope": "prompt", "aggregate": {"kind": "mean"}},
        "answer_last": {"scope": "answer", "aggregate": {"kind": "last"}},
    },
    "trainings": ("mean", "max"),
    "ridge_cs": (1e-3, 1e-1),
    "target_fprs": (0.05, 0.01, 0.001),
}
RECIPE = Recipe.model_validate(FIELDS)


@cache
def data() -> dict[str, Dataset]:
    return {
        "fit": planted(500, 0, tag="fit"),
        "calibration": planted(800, 1, tag="calibration"),
        "test": planted(500, 2, tag="test"),
    }


@cache
def fitted() -> FittedProbe:
    return fit_probe(RECIPE, **data(), model_id="demo", created_by="a test")


def test_the_sweep_finds_the_layer_and_the_token() -> None:
    chosen = fitted().evaluation.chosen
    assert chosen.layers == (SIGNAL_LAYER,)
    assert (chosen.training, chosen.readout) == ("max", "prompt_max")
    assert fitted().probe.default_readout == "prompt_max"
    tried = {(each.layers, each.training, each.ridge_c) for each in fitted().evaluation.sweep}
    assert len(tried) == 3 * 2 * 2


def test_the_probe_beats_what_cannot_see_the_signal() -> None:
    evaluation = fitted().evaluation
    score = evaluation.readouts["prompt_max"].score
    assert score.auroc.low > 0.97
    assert set(evaluation.baselines) == {
        "TF-IDF",
        "length",
        "mean log-probability",
        "shuffled labels",
    }
    for baseline in evaluation.baselines.values():
        assert baseline.auroc.high < score.auroc.low
        assert baseline.auroc.estimate == pytest.approx(0.5, abs=0.12)


def test_each_family_is_left_out_once() -> None:
    evaluation = fitted().evaluation
    assert [each.family for each in evaluation.left_out_families] == ["cipher", "plain", "story"]
    assert evaluation.undone_families == ()
    for each in evaluation.left_out_families:
        assert not each.paired_with_others
        assert each.probe.auroc.estimate > 0.95
        assert each.probe.n_positive + each.probe.n_negative < 200


def test_a_family_of_one_class_is_measured_against_the_others() -> None:
    sets = dict(data())
    for name, each in sets.items():
        sets[name] = each.with_labels(each.labels_N & (each.families_N != "plain"))
    made = fit_probe(
        RECIPE.model_copy(update={"left_out_families": ("plain", "nowhere")}),
        **sets,
        model_id="demo",
        created_by="a test",
    )
    (plain,) = made.evaluation.left_out_families
    assert plain.paired_with_others
    assert plain.probe.n_positive == int(sets["test"].labels_N.sum())
    assert plain.probe.n_negative == int((sets["test"].families_N == "plain").sum())
    assert made.evaluation.undone_families == ("nowhere",)


def test_thresholds_hold_on_test_data_and_missing_ones_are_told() -> None:
    for report in fitted().evaluation.readouts.values():
        assert report.unmet_targets == (0.001,)
        assert [each.target_fpr for each in report.thresholds] == [0.05, 0.01]
        for each in report.thresholds:
            assert each.fpr is not None
            assert each.fpr.low <= each.target_fpr


def test_the_folder_loads_and_gives_the_same_values(tmp_path: Path) -> None:
    write_probe(fitted(), tmp_path / "toy")
    names = {each.name for each in (tmp_path / "toy").iterdir()}
    assert names == {
        "manifest.json",
        "weights.safetensors",
        "recipe.json",
        "evaluation.json",
        "README.md",
    }
    loaded = load_probe("toy", tmp_path / "toy")
    assert loaded.digest == fitted().probe.digest
    test = data()["test"]
    readout = loaded.readouts["prompt_max"]
    row = Row(loaded.layers, loaded.weights_LD, loaded.bias)
    logits = sequence_logits(token_logits(row, test), test.starts, readout.aggregate)
    values = apply(logits, readout.slope, readout.offset)
    for target, threshold in signals_of(loaded)[0].thresholds:
        reported = next(
            each
            for each in fitted().evaluation.readouts["prompt_max"].thresholds
            if each.target_fpr == target
        )
        assert reported.tpr is not None
        assert np.mean(values[test.labels_N] >= threshold) == reported.tpr.estimate
    recipe = Recipe.model_validate_json((tmp_path / "toy" / "recipe.json").read_text())
    assert recipe == RECIPE


def test_calibrated_values_are_shares() -> None:
    test = data()["test"]
    probe = fitted().probe
    readout = probe.readouts["prompt_mean"]
    row = Row(probe.layers, probe.weights_LD, probe.bias)
    logits = sequence_logits(token_logits(row, test), test.starts, readout.aggregate)
    values = apply(logits, readout.slope, readout.offset)
    assert values.mean() == pytest.approx(test.labels_N.mean(), abs=0.06)


def test_the_same_recipe_and_data_give_the_same_probe() -> None:
    again = fit_probe(RECIPE, **data(), model_id="demo", created_by="a test")
    assert again.probe.digest == fitted().probe.digest
    assert again.evaluation == fitted().evaluation


def test_a_control_with_shuffled_labels_knows_nothing_and_says_so() -> None:
    recipe = RECIPE.model_copy(update={"shuffle_labels": True, "left_out_families": ()})
    control = fit_probe(recipe, **data(), model_id="demo", created_by="a test")
    score = control.evaluation.readouts[control.probe.default_readout].score
    assert score.auroc.estimate < 0.75
    assert score.auroc.estimate < fitted().evaluation.readouts["prompt_max"].score.auroc.low
    assert control.evaluation.shuffled_labels


def test_data_that_share_a_group_are_refused() -> None:
    sets = dict(data(), test=data()["fit"])
    with pytest.raises(ConfigError, match="fit and test share 250 groups, such as 'fit-0'"):
        fit_probe(RECIPE, **sets, model_id="demo", created_by="a test")


def test_the_card_has_every_figure_of_the_evaluation(tmp_path: Path) -> None:
    write_probe(fitted(), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card == card_of(tmp_path)
    evaluation = fitted().evaluation
    scores = [each.score for each in evaluation.readouts.values()]
    scores += list(evaluation.baselines.values())
    scores += [each.probe for each in evaluation.left_out_families]
    for score in scores:
        for each in (score.auroc, score.tpr_at_fpr_1_percent):
            assert f"{each.estimate:.3f} [{each.low:.3f}, {each.high:.3f}]" in card
    for name in [*evaluation.readouts, *evaluation.baselines, "cipher", "story", "plain"]:
        assert name in card
    assert fitted().probe.digest in card
    assert "Too few negatives for: prompt_max at 0.001" in card


@pytest.mark.parametrize(
    "folder", sorted((library_path("probes/demo") / "probes").iterdir()), ids=lambda each: each.name
)
def test_a_shipped_card_is_written_from_its_files_and_says_where_a_prompt_is_read(
    folder: Path,
) -> None:
    card = (folder / "README.md").read_text()
    assert card == card_of(folder)
    reads_one = any(
        each.scope == "prompt" and each.aggregate.kind == "last"
        for each in load_probe(folder.name, folder).manifest.readouts.values()
    )
    assert ("where an assistant's turn opens" in card) == reads_one


def test_the_card_follows_the_evaluation(tmp_path: Path) -> None:
    write_probe(fitted(), tmp_path)
    place = tmp_path / "evaluation.json"
    raw = json.loads(place.read_text())
    raw["readouts"]["prompt_max"]["score"]["auroc"] = {"estimate": 0.5, "low": 0.1234, "high": 0.6}
    place.write_text(json.dumps(raw))
    assert "0.500 [0.123, 0.600]" in card_of(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"probe": 1}', "[" * 100_000],
    ids=["empty", "no field", "a list", "another file", "nested"],
)
def test_a_card_without_a_sound_evaluation_is_refused(text: str, tmp_path: Path) -> None:
    write_probe(fitted(), tmp_path)
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"evaluation\.json: content: got"):
        card_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scope": "output"}, "want at least one 'output'"),
        ({"ridge_cs": (0.0,)}, "every C above 0"),
        ({"trainings": ()}, "want at least one each"),
        ({"layers": (1,)}, "Extra inputs are not permitted"),
        ({"trainings": ("median",)}, "Input should be 'mean'"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate(FIELDS | change)
