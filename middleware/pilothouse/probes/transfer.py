"""Fitted on some sources, chosen by leaving each of them out, measured on others.

A family of the fitting data is a source here. Layer and C are those with the best mean AUROC over
sources that the fit did not see, for the probe and for TF-IDF alike, so that no test set decides
anything.

Shapes: N fitted sequences, M sequences of a test set, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.manifest import Interval
from pilothouse.errors import ConfigError
from pilothouse.probes.baseline import TFIDF_CS, shape_features
from pilothouse.probes.dataset import Dataset
from pilothouse.probes.fit import fit_row
from pilothouse.probes.metrics import auroc, bootstrap_draws
from pilothouse.probes.readout import score_of
from pilothouse.probes.recipe import Recipe
from pilothouse.probes.report import Form, Score, TransferReport
from pilothouse.probes.score import Row
from pilothouse.probes.split import shuffled_labels
from pilothouse.probes.sweep import Trial, readout_logits

PROBE = "probe"
SHUFFLED = "shuffled labels"
LOG_PROBABILITY = "mean log-probability"
RANK = {PROBE: 0, LOG_PROBABILITY: 2, SHUFFLED: 3}
"""In what order a table has them; scorers of texts come behind the probe."""

Floats = NDArray[np.float64]
Predict = Callable[[Dataset], Floats]
"""scores_M of a data set."""
Advance = Callable[[int], None]
Setting = TypeVar("Setting")


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A probe fitted on several sources, and every scorer that it stands beside."""

    row: Row
    chosen: Trial
    trials: tuple[Trial, ...]
    scorers: Mapping[Form, Mapping[str, Predict]]
    """By how the texts are written that a scorer of texts was fitted on."""


def fit_transfer(
    recipe: Recipe,
    train: Dataset,
    texts_N: NDArray[Any],
    advance: Advance = lambda _: None,
) -> Transfer:
    """Fit the probe and its baselines on `train`, one token a sequence.

    Args:
        recipe: its layer sets and Cs are tried; it has one readout.
        train: its texts are alike in shape.
        texts_N: the same texts as written.
        advance: called with 1 after each setting that was tried.

    Raises:
        ConfigError: fewer than two sources, or one that lacks a class.
    """
    check_sources(train)
    [(readout, aggregate)] = recipe.competing.items()

    def predictor(row: Row) -> Predict:
        return lambda dataset: readout_logits(row, dataset, aggregate)

    trials = []
    for layers in recipe.layer_sets:
        for ridge_c in recipe.ridge_cs:

            def fit(part: Dataset, layers: tuple[int, ...] = layers, c: float = ridge_c) -> Predict:
                return predictor(_row(part, layers, c))

            trials.append(Trial(layers, "last", ridge_c, readout, _unseen_auroc(fit, train)))
            advance(1)
    chosen = max(trials, key=lambda each: (each.objective, -each.ridge_c))
    row = _row(train, chosen.layers, chosen.ridge_c)
    control = _row(shuffled_labels(train, recipe.seed), chosen.layers, chosen.ridge_c)
    own: dict[str, Predict] = {PROBE: predictor(row), SHUFFLED: predictor(control)}
    known = train.select(np.isfinite(train.mean_log_probabilities_N))
    if len(known) and 0 < known.labels_N.sum() < len(known):
        own[LOG_PROBABILITY] = fit_features(
            known, lambda each: each.mean_log_probabilities_N[:, None]
        )
    written = replace(train, texts_N=texts_N)
    scorers: dict[Form, Mapping[str, Predict]] = {
        "alike": own | _of_texts(train),
        "as written": own | _of_texts(written),
    }
    return Transfer(row, chosen, tuple(trials), scorers)


def check_sources(train: Dataset) -> None:
    """Refuse data of which no source can be left out.

    Raises:
        ConfigError: fewer than two sources, or one that lacks a class.
    """
    sources = {
        name: train.labels_N[train.families_N == name] for name in np.unique(train.families_N)
    }
    lacking = [str(name) for name, labels in sources.items() if labels.all() or not labels.any()]
    if len(sources) < 2 or lacking:
        raise ConfigError(
            f"transfer: got sources {sorted(map(str, sources))}, of one class alone {lacking}; "
            "want at least two, each with positives and negatives"
        )


def scores_of(transfer: Transfer, form: Form, test: Dataset, seed: int) -> dict[str, Score]:
    """Every scorer's figures on a test set; log-probability only where each sequence has one."""
    values = _values(transfer, form, test)
    return {name: score_of(each, test, seed) for name, each in values.items()}


def transfer_report(
    transfer: Transfer, name: str, form: Form, test: Dataset, *, overlapping: int, seed: int
) -> TransferReport:
    """One test set under every scorer, and how far the probe is ahead of each."""
    values = _values(transfer, form, test)
    draws = {
        scorer: bootstrap_draws(
            auroc, each, test.labels_N, test.groups_N, seed=seed, resamples=1000
        )
        for scorer, each in values.items()
    }
    return TransferReport(
        name=name,
        form=form,
        scores={scorer: score_of(each, test, seed) for scorer, each in values.items()},
        leads={scorer: _lead(values, draws, scorer, test) for scorer in values if scorer != PROBE},
        overlapping=overlapping,
    )


def _values(transfer: Transfer, form: Form, test: Dataset) -> dict[str, Floats]:
    measured = bool(np.isfinite(test.mean_log_probabilities_N).all())
    return {
        name: predict(test)
        for name, predict in _ordered(transfer.scorers[form])
        if measured or name != LOG_PROBABILITY
    }


def _ordered(scorers: Mapping[str, Predict]) -> list[tuple[str, Predict]]:
    """The probe first, the control last."""
    return sorted(scorers.items(), key=lambda each: RANK.get(each[0], 1))


def _of_texts(train: Dataset) -> dict[str, Predict]:
    return {
        "TF-IDF": _best(_tfidf, TFIDF_CS, train),
        **_of_one_source(train),
        "shape": fit_features(train, lambda each: shape_features(each.texts_N)),
    }


def _of_one_source(train: Dataset) -> dict[str, Predict]:
    """TF-IDF fitted on one of two sources, its C chosen on the other: more words can mislead it."""
    sources = np.unique(train.families_N)
    if len(sources) != 2:
        return {}
    found = {}
    for source in sources:
        inside_N = train.families_N == source
        known, unseen = train.select(inside_N), train.select(~inside_N)
        fits = [_tfidf(known, c) for c in TFIDF_CS]
        found[f"TF-IDF of {source}"] = max(
            fits, key=lambda fit: auroc(fit(unseen), unseen.labels_N)
        )
    return found


def _lead(
    values: Mapping[str, Floats], draws: Mapping[str, Floats], scorer: str, test: Dataset
) -> Interval:
    """The probe's AUROC less the scorer's; both were drawn with one seed, so resamples agree."""
    estimate = auroc(values[PROBE], test.labels_N) - auroc(values[scorer], test.labels_N)
    low, high = np.quantile(draws[PROBE] - draws[scorer], [0.025, 0.975])
    return Interval(
        estimate=estimate, low=float(min(low, estimate)), high=float(max(high, estimate))
    )


def _row(train: Dataset, layers: tuple[int, ...], ridge_c: float) -> Row:
    last = train.starts[1:] - 1
    features_NF = np.concatenate([train.hidden_TD(layer)[last] for layer in layers], axis=1)
    return fit_row(features_NF, train.labels_N, layers, ridge_c)


def _unseen_auroc(fit: Callable[[Dataset], Predict], train: Dataset) -> float:
    """The mean AUROC over sources, each scored by a fit on the others."""
    found = []
    for source in np.unique(train.families_N):
        inside_N = train.families_N == source
        unseen = train.select(inside_N)
        found.append(auroc(fit(train.select(~inside_N))(unseen), unseen.labels_N))
    return float(np.mean(found))


def _best(
    fit: Callable[[Dataset, Setting], Predict], settings: Sequence[Setting], train: Dataset
) -> Predict:
    """The fit on all sources under the setting that does best on sources left out."""
    chosen = max(settings, key=lambda each: _unseen_auroc(lambda part: fit(part, each), train))
    return fit(train, chosen)


def _tfidf(train: Dataset, c: float) -> Predict:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    model = LogisticRegression(C=c, max_iter=2000)
    model.fit(words.fit_transform(train.texts_N), train.labels_N)

    def predict(dataset: Dataset) -> Floats:
        scores_M: Floats = model.decision_function(words.transform(dataset.texts_N))
        return scores_M

    return predict


def fit_features(train: Dataset, features: Callable[[Dataset], Floats]) -> Predict:
    """A logistic regression on a few standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features(train), train.labels_N)

    def predict(dataset: Dataset) -> Floats:
        scores_M: Floats = model.decision_function(features(dataset))
        return scores_M

    return predict
