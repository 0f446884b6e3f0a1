"""Fitting finds what was planted, and serves it in the units of the activations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pilothouse.artifacts.manifest import ReadoutAggregate
from pilothouse.errors import ConfigError
from pilothouse.probes.dataset import Example, dataset_of
from pilothouse.probes.fit import Training, candidate_rows, fit_row
from pilothouse.probes.metrics import auroc
from pilothouse.probes.score import Row, sequence_logits, token_logits
from tests.support.training.planted_activations import SIGNAL_LAYER, direction, planted

MAX = ReadoutAggregate(kind="max")


def test_the_standardisation_is_folded_into_row_and_bias() -> None:
    data = planted(400, 0, everywhere=True)
    features = np.concatenate([data.hidden_TD(2), data.hidden_TD(4)], axis=1)[data.starts[:-1]]
    row = fit_row(features, data.labels_N, (2, 4), 0.1)
    scaler = StandardScaler()
    reference = LogisticRegression(C=0.1, max_iter=2000).fit(
        scaler.fit_transform(features.astype(np.float64)), data.labels_N
    )
    wanted = reference.decision_function(scaler.transform(features.astype(np.float64)))
    got = features @ row.weights_LD.reshape(-1) + row.bias
    assert np.allclose(got, wanted, atol=1e-2)
    assert row.weights_LD.shape == (2, features.shape[1] // 2)
    assert row.weights_LD.dtype == np.float32


def test_a_feature_that_does_not_vary_gets_no_weight() -> None:
    features = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    features[:, 2] = 7.3
    row = fit_row(features, features[:, 0] > 0, (1,), 1.0)
    assert row.weights_LD[0, 2] == 0.0
    assert np.isfinite(row.bias)


def test_sample_weights_count_as_repetitions() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(200, 3)).astype(np.float32)
    features[::2] -= features.mean(axis=0)
    labels = features[:, 0] + generator.normal(size=200) > 0
    twice = fit_row(np.tile(features, (2, 1)), np.tile(labels, 2), (1,), 0.5)
    weighted = fit_row(features, labels, (1,), 0.5, np.full(200, 2.0))
    assert np.allclose(twice.weights_LD, weighted.weights_LD, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("training", ["mean", "last", "tokens"])
def test_a_signal_on_every_token_is_found_by_each_training(training: Training) -> None:
    ((_, row),) = candidate_rows(planted(400, 0, everywhere=True), (4,), training, (0.01,), seed=0)
    test = planted(300, 1, everywhere=True)
    logits = sequence_logits(token_logits(row, test), test.starts, MAX)
    assert auroc(logits, test.labels_N) > 0.99


@pytest.mark.parametrize("training", ["mean", "last", "tokens"])
def test_the_row_points_along_the_planted_direction(training: Training) -> None:
    data = planted(3000, 0, everywhere=True, strength=1.0)
    ((_, row),) = candidate_rows(data, (4,), training, (0.01,), seed=0)
    assert row.weights_LD[0] @ direction() / np.linalg.norm(row.weights_LD[0]) > 0.9


def score(row: Row, seed: int) -> float:
    test = planted(400, seed)
    return auroc(sequence_logits(token_logits(row, test), test.starts, MAX), test.labels_N)


def test_training_on_the_highest_token_beats_the_mean_where_one_token_tells() -> None:
    data = planted(600, 0)
    ((_, mean),) = candidate_rows(data, (SIGNAL_LAYER,), "mean", (0.01,), seed=0)
    *_, (_, last_round) = candidate_rows(data, (SIGNAL_LAYER,), "max", (0.01,), seed=0)
    assert score(last_round, 1) > score(mean, 1)
    assert score(last_round, 1) > 0.97


def test_a_negative_cannot_hide_one_token_behind_another() -> None:
    generator = np.random.default_rng(4)
    positive, negative = np.array([[3, 3]]), np.array([[4, 0], [0, 4], [-3, 1]])
    examples = []
    for index in range(200):
        label = index % 2 == 0
        tokens = positive if label else negative
        hidden = (tokens + 0.05 * generator.normal(size=tokens.shape)).astype(np.float32)
        examples.append(Example(hidden[:, None], len(tokens), label, str(index), "f", ""))
    data = dataset_of(examples, (1,))
    *_, (_, row) = candidate_rows(data, (1,), "max", (1.0,), seed=0)
    logits = sequence_logits(token_logits(row, data), data.starts, MAX)
    assert auroc(logits, data.labels_N) == 1.0


def test_a_layer_without_the_signal_stays_at_chance() -> None:
    ((_, row),) = candidate_rows(planted(600, 0), (2,), "mean", (0.01,), seed=0)
    assert score(row, 1) == pytest.approx(0.5, abs=0.08)


def test_long_data_are_sampled_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilothouse.probes.fit.MAX_TRAINING_TOKENS", 500)
    data = planted(400, 0, everywhere=True)
    rows = [next(candidate_rows(data, (4,), "tokens", (0.01,), seed=seed))[1] for seed in (0, 0, 1)]
    assert np.array_equal(rows[0].weights_LD, rows[1].weights_LD)
    assert not np.array_equal(rows[0].weights_LD, rows[2].weights_LD)


def test_data_that_cannot_be_fitted_are_refused() -> None:
    features = np.ones((4, 2), dtype=np.float32)
    with pytest.raises(ConfigError, match="fit: got 4 positives of 4"):
        fit_row(features, np.ones(4, bool), (1,), 1.0)
    with pytest.raises(ConfigError, match="8 features that are not finite"):
        fit_row(features * np.nan, np.array([1, 0, 1, 0], bool), (1,), 1.0)
