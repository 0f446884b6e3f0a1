"""Ridge logistic regression; its weights are the direction (RAPTOR).

C is chosen by cross-validation over groups: the smallest whose AUROC is within one standard error
of the best, which is also what keeps the direction steady from draw to draw.

Shape suffixes: R states (two for each pair), F numbers of a state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ConfigError
from pilothouse.probes.fit import fit_row
from pilothouse.probes.metrics import auroc
from pilothouse.training.method import Fitted, along, register
from pilothouse.training.sample import Floats, Sample

RIDGE_CS = tuple(float(each) for each in np.logspace(-5, 1, 7))
FOLDS = 5
LAYER = (0,)
"""`fit_row` names layers in its errors; a sample is of one place."""


def ridge_direction(sample: Sample) -> Fitted:
    """The direction at the length of the mean gap along it, with the C that was chosen.

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
    """AUROC of each fold by the rest; None where the regression does not converge."""
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
