"""Methods by name: each turns a sample of states into a direction that points at positives.

A sample has one state for each side of each pair, at one place.

Shape suffixes: N pairs, R states (two for each pair), F numbers of a state (the width of the site,
or codes of an SAE), D width of the site, M features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.errors import ConfigError
from pilothouse.probes.fit import fit_row
from pilothouse.probes.metrics import auroc

Floats = NDArray[np.float64]
MAX_RANDOM_RATE = 0.1
"""Share of random tokens in which a feature may be on and still be taken."""
RIDGE_CS = tuple(float(each) for each in np.logspace(-5, 1, 7))
FOLDS = 5
LAYER = (0,)
"""`fit_row` names layers in its errors; a sample is of one place."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """States of positives and negatives, pair by pair."""

    positive_NF: Floats
    negative_NF: Floats
    groups_N: NDArray[np.str_]

    def resampled(self, generator: np.random.Generator) -> Sample:
        """Return as many groups, drawn with replacement; each draw is a group of its own."""
        names, group_N = np.unique(self.groups_N, return_inverse=True)
        drawn = generator.integers(0, len(names), len(names))
        rows = [np.flatnonzero(group_N == each) for each in drawn]
        labels = np.repeat(np.arange(len(drawn)), [len(each) for each in rows]).astype(np.str_)
        kept = np.concatenate(rows)
        return Sample(self.positive_NF[kept], self.negative_NF[kept], labels)

    def shuffled(self, generator: np.random.Generator) -> Sample:
        """Return the same states dealt out anew to sides and pairs: nothing is left to learn."""
        pool = np.concatenate([self.positive_NF, self.negative_NF])
        pool = pool[generator.permutation(len(pool))]
        half = len(self.groups_N)
        return Sample(pool[:half], pool[half:], self.groups_N)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A direction, float64 [D], and what the method has to say of it (plain numbers and lists)."""

    direction_D: Floats
    facts: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


Method = Callable[[Sample], Fitted]
METHODS: dict[str, Method] = {}


def register(name: str, method: Method) -> None:
    """Add a method.

    Raises:
        ConfigError: the name is taken.
    """
    if name in METHODS:
        raise ConfigError(f"method {name!r} is registered twice; give one another name")
    METHODS[name] = method


def along(unit_D: Floats, sample: Sample) -> Floats:
    """Return a direction at the length of the mean gap, so that a scale of 1 closes the gap.

    Raises:
        ConfigError: positives and negatives do not differ along it.
    """
    gap = float((sample.positive_NF - sample.negative_NF).mean(axis=0) @ unit_D)
    if not np.isfinite(gap) or gap == 0.0:
        raise ConfigError("fit: positives and negatives do not differ; write pairs that do")
    return gap * unit_D


def mean_difference(sample: Sample) -> Fitted:
    """Return the mean positive state less the mean negative one, at its own length.

    Raises:
        ConfigError: the means do not differ.
    """
    direction_D = (sample.positive_NF - sample.negative_NF).mean(axis=0)
    if not direction_D.any():
        raise ConfigError("fit: positives and negatives do not differ; write pairs that do")
    return Fitted(direction_D)


register("difference-of-means", mean_difference)


def principal_difference(sample: Sample) -> Fitted:
    """Return the principal direction of the pairs' differences (LAT, linear artificial tomography).

    It points where positives lie, at the length of the mean gap along it. Differences of pairs in
    random order have mean zero, so that their principal component is the leading eigenvector of the
    second moment; that is computed directly, without drawing an order.
    Source: Zou et al. 2023, Representation Engineering.

    Raises:
        ConfigError: positives and negatives do not differ along it.
    """
    differences_ND = sample.positive_NF - sample.negative_NF
    _, singular_N, rows_ND = np.linalg.svd(differences_ND, full_matrices=False)
    power = float((singular_N**2).sum())
    share = float(singular_N[0] ** 2) / power if power else 0.0
    return Fitted(along(rows_ND[0], sample), {"explained_share": share})


register("pca", principal_difference)


def ridge_direction(sample: Sample) -> Fitted:
    """Return the weights of a ridge logistic regression (RAPTOR), at the length of the mean gap.

    C is chosen by cross-validation over groups: the smallest whose AUROC is within one standard
    error of the best, which also keeps the direction steady from draw to draw.

    Raises:
        ConfigError: fewer than two groups, or no C at which the regression converges.
    """
    states_RF = np.concatenate([sample.positive_NF, sample.negative_NF]).astype(np.float32)
    labels_R = np.repeat([True, False], len(sample.groups_N))
    folds_R = np.tile(_folds(sample.groups_N), 2)
    scores = {c: _held_out(states_RF, labels_R, folds_R, c) for c in RIDGE_CS}
    known = {c: each for c, each in scores.items() if each is not None}
    if not known:
        raise ConfigError("ridge: no C at which the regression converges; take another method")
    best = max(known, key=lambda c: known[c].mean())
    error = float(known[best].std(ddof=1) / np.sqrt(len(known[best])))
    chosen = min(c for c, each in known.items() if each.mean() >= known[best].mean() - error)
    row = fit_row(states_RF, labels_R, LAYER, chosen)
    weights_F = row.weights_LD[0].astype(np.float64)
    length = float(np.linalg.norm(weights_F))
    if not length:
        raise ConfigError("ridge: all weights are 0: positives and negatives do not differ")
    facts = {"ridge_c": chosen, "held_out_auroc": float(known[chosen].mean())}
    return Fitted(along(weights_F / length, sample), facts)


def _held_out(
    states_RF: NDArray[np.float32],
    labels_R: NDArray[np.bool_],
    folds_R: NDArray[np.int64],
    c: float,
) -> Floats | None:
    """Return each fold's AUROC by the rest; None where the regression does not converge."""
    scores: list[float] = []
    for fold in np.unique(folds_R):
        out = folds_R == fold
        try:
            row = fit_row(states_RF[~out], labels_R[~out], LAYER, c)
        except ConfigError:
            return None
        scores.append(auroc(states_RF[out] @ row.weights_LD[0], labels_R[out]))
    return np.array(scores)


def _folds(groups_N: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
    names, group_N = np.unique(groups_N, return_inverse=True)
    if len(names) < 2:
        raise ConfigError(f"ridge: got {len(names)} group, want at least 2 to choose C by")
    folds: NDArray[np.int64] = (group_N % min(FOLDS, len(names))).astype(np.int64)
    return folds


register("ridge", ridge_direction)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSelection:
    """Sums the decoder rows of the SAE features that are stronger in positives.

    A feature that is on in random tokens too is left out: it stands for text as such, and not for
    what the pairs differ in. Source of that filter: LangFIR.

    Attributes:
        sae: the SAE whose codes the samples hold.
        random_rate_M: the share of random tokens in which each feature is on.
        top: how many features are taken, by their mean gap.
    """

    sae: Sae
    random_rate_M: Floats
    top: int

    def __call__(self, sample: Sample) -> Fitted:
        """Return the sum of the chosen features' decoder rows, in the units of the stream.

        Raises:
            ConfigError: no feature is left.
        """
        if self.sae.polynomial is not None:
            raise ConfigError(
                f"sae-features: {self.sae.name} is a PolySAE, whose features write no row of their "
                "own; take another SAE, or another method"
            )
        gap_M = (sample.positive_NF - sample.negative_NF).mean(axis=0)
        open_M = np.where(self.random_rate_M <= MAX_RANDOM_RATE, gap_M, -np.inf)
        chosen = [int(each) for each in np.argsort(-open_M, kind="stable")[: self.top]]
        chosen = [each for each in chosen if open_M[each] > 0]
        if not chosen:
            raise ConfigError(
                f"sae-features: no feature of {self.sae.name} is stronger in positives and rare in "
                "random tokens; take another SAE or layer, or another method"
            )
        direction_D = np.sum([self._row(each) for each in chosen], axis=0)
        told = [
            {
                "feature": each,
                "label": self.sae.labels.get(each),
                "gap": float(gap_M[each]),
                "random_rate": float(self.random_rate_M[each]),
            }
            for each in chosen
        ]
        return Fitted(direction_D / self.sae.input_scale, {"features": told})

    def _row(self, feature: int) -> Floats:
        row_D: Floats = np.asarray(self.sae.decoder_MD.row(feature), np.float64)
        return row_D / np.linalg.norm(row_D) if self.sae.decoder_norms == "scale" else row_D
