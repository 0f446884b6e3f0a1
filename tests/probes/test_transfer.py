"""A probe fitted on some sources: what is chosen without the tests, and what it is held against."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.errors import ConfigError
from pilothouse.probes.baseline import BEHIND, shape_features
from pilothouse.probes.dataset import Dataset, Example, dataset_of
from pilothouse.probes.recipe import Recipe
from pilothouse.probes.transfer import Transfer, fit_transfer, scores_of, transfer_report

LAYERS = (2, 4)
D_MODEL = 12
RECIPE = Recipe.model_validate(
    {
        "name": "toy",
        "scope": "prompt",
        "layer_sets": ((2,), (4,)),
        "readouts": {"prompt": {"scope": "prompt", "aggregate": {"kind": "last"}}},
        "trainings": ("last",),
        "ridge_cs": (1e-2, 1e-1),
    }
)


def of_source(source: str, count: int, seed: int, *, tells: int, log_probability: bool) -> Dataset:
    """Layer 4 carries the label everywhere; layer 2 too, the other way round in each source."""
    generator = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        label = index % 2 == 0
        hidden = generator.normal(size=(1, 2, D_MODEL))
        hidden[0, 0, 1] += 8.0 * tells * label
        hidden[0, 1, 0] += 3.0 * label
        examples.append(
            Example(
                hidden_TLD=hidden.astype(np.float32),
                prompt_tokens=1,
                label=label,
                group=f"{source}-{index}",
                family=source,
                text=f"word{generator.integers(50)} {'shout!' if label else 'whisper'}",
                mean_log_probability=float(generator.normal()) if log_probability else np.nan,
            )
        )
    return dataset_of(examples, LAYERS)


def joined(*parts: Dataset) -> Dataset:
    examples = [
        Example(
            part.hidden_LTD[:, row : row + 1].transpose(1, 0, 2),
            1,
            bool(part.labels_N[row]),
            str(part.groups_N[row]),
            str(part.families_N[row]),
            str(part.texts_N[row]),
            float(part.mean_log_probabilities_N[row]),
        )
        for part in parts
        for row in range(len(part))
    ]
    return dataset_of(examples, LAYERS)


def fitted() -> Transfer:
    train = joined(
        of_source("one", 200, 0, tells=1, log_probability=True),
        of_source("two", 200, 1, tells=-1, log_probability=False),
    )
    return fit_transfer(RECIPE, train, train.texts_N)


def test_the_layer_that_holds_in_sources_left_out_is_chosen() -> None:
    transfer = fitted()
    assert transfer.chosen.layers == (4,)
    by_layer = {
        layers: max(each.objective for each in transfer.trials if each.layers == layers)
        for layers in ((2,), (4,))
    }
    assert by_layer[2,] < 0.1 < 0.95 < by_layer[4,]


def test_every_scorer_stands_beside_the_probe_with_its_lead() -> None:
    test = of_source("three", 300, 2, tells=1, log_probability=True)
    report = transfer_report(fitted(), "three", "alike", test, overlapping=4, seed=0)
    assert list(report.scores) == [
        "probe",
        "TF-IDF",
        "TF-IDF of one",
        "TF-IDF of two",
        "shape",
        "mean log-probability",
        "shuffled labels",
    ]
    assert report.scores["probe"].auroc.estimate > 0.95
    assert report.leads["mean log-probability"].low > 0.3
    assert report.leads["shuffled labels"].low > 0.2
    lead = report.leads["shape"].estimate
    assert lead == pytest.approx(
        report.scores["probe"].auroc.estimate - report.scores["shape"].auroc.estimate
    )
    assert report.overlapping == 4


def test_without_log_probabilities_nothing_stands_in_for_them() -> None:
    test = of_source("three", 100, 2, tells=1, log_probability=False)
    assert "mean log-probability" not in scores_of(fitted(), "as written", test, 0)


def test_scorers_of_texts_are_fitted_on_the_form_that_they_read() -> None:
    train = joined(
        of_source("one", 200, 0, tells=1, log_probability=False),
        of_source("two", 200, 1, tells=-1, log_probability=False),
    )
    marked = np.array(
        [
            f"{text}." if label else f"{text}?"
            for text, label in zip(train.texts_N, train.labels_N, strict=True)
        ],
        dtype=object,
    )
    same = np.array(["same words"] * len(train), dtype=object)
    train = Dataset(**{name: getattr(train, name) for name in train.__slots__} | {"texts_N": same})
    transfer = fit_transfer(RECIPE, train, marked)
    test = of_source("three", 100, 2, tells=1, log_probability=False)
    test.texts_N[:] = ["same words" + (".", "?")[not label] for label in test.labels_N]
    assert scores_of(transfer, "as written", test, 0)["shape"].auroc.estimate == 1.0
    assert scores_of(transfer, "alike", test, 0)["shape"].auroc.estimate == 0.5


def test_a_source_of_one_class_cannot_be_left_out() -> None:
    one = of_source("one", 50, 0, tells=1, log_probability=False)
    with pytest.raises(ConfigError, match=r"sources \['one'\]"):
        fit_transfer(RECIPE, one, one.texts_N)
    two = of_source("two", 50, 1, tells=1, log_probability=False)
    half = joined(one, two.select(two.labels_N))
    with pytest.raises(ConfigError, match=r"of one class alone \['two'\]"):
        fit_transfer(RECIPE, half, half.texts_N)


def test_shape_sees_how_an_answer_is_written_and_not_its_question() -> None:
    alone, behind = shape_features(["Paris.", f"Where is it, in short?{BEHIND}Paris."])
    assert alone.tolist() == behind.tolist()
    assert shape_features(["Paris."]).tolist() != shape_features(["paris"]).tolist()
    assert np.isfinite(shape_features([""])).all()
