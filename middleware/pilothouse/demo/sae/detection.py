"""How well a labelled feature tells its label's words in fresh text, beside a feature by lot.

Shape suffixes: R rows, M features, N lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pilothouse.demo.sae.concepts import Concept
from pilothouse.demo.sae.labels import Label, in_reach
from pilothouse.demo.sae.lines import Bools, Line, Rows
from pilothouse.demo.sae.sae_card import Detection
from pilothouse.probes.metrics import auroc, bootstrap, tpr_at_fpr

RESAMPLES: Final = 100
LOTS: Final = 5
FIVE_PERCENT: Final = 0.05


def detected(
    codes_RM: Any,
    lines: Sequence[Line],
    rows: Rows,
    label: Label,
    concept: Concept,
    labelled: Sequence[int],
    seed: int,
) -> Detection | None:
    """Return the figures of a label on fresh lines; none where no line has its words.

    By token: one within reach is positive, its score the feature's code. By text: one that has
    the words anywhere is positive, its score the largest code in it. The interval is over
    resamples of whole texts. Beside it the mean of features drawn by lot among those that are on
    as often and have no label.
    """
    near_R = in_reach(lines, rows, concept, label.reach)
    if near_R.all() or not near_R.any():
        return None
    codes_R = _column(codes_RM, label.feature)
    lots = by_lot(codes_RM, label.feature, labelled, seed)
    has_N, codes_N = _by_line(rows, in_reach(lines, rows, concept, 0), codes_R)
    return Detection(
        tokens=len(near_R),
        positive=int(near_R.sum()),
        auroc=bootstrap(auroc, codes_R, near_R, rows.line_R, seed=seed, resamples=RESAMPLES),
        found_at_five_percent=tpr_at_fpr(codes_R, near_R, FIVE_PERCENT),
        by_lot=float(np.mean([auroc(_column(codes_RM, each), near_R) for each in lots])),
        text_auroc=auroc(codes_N, has_N) if has_N.any() and not has_N.all() else None,
    )


def by_lot(codes_RM: Any, feature: int, labelled: Sequence[int], seed: int) -> list[int]:
    """Return features without a label that are on about as often: the nearest, by lot."""
    on_M = np.diff(codes_RM.indptr)
    distance_M = np.abs(np.log1p(on_M) - np.log1p(on_M[feature])).astype(np.float64)
    distance_M[[*labelled, feature]] = np.inf
    distance_M[on_M == 0] = np.inf
    nearest = np.argsort(distance_M, kind="stable")[: 10 * LOTS]
    drawn = np.random.default_rng([seed, feature]).choice(nearest, LOTS, replace=False)
    return [int(each) for each in drawn]


def _column(codes_RM: Any, feature: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = codes_RM[:, [feature]].toarray().ravel().astype(np.float64)
    return found


def _by_line(
    rows: Rows, stands_R: Bools, codes_R: NDArray[np.float64]
) -> tuple[Bools, NDArray[np.float64]]:
    """Say of each line whether it has the words, and its largest code."""
    _, line_R = np.unique(rows.line_R, return_inverse=True)
    has_N = np.zeros(line_R.max() + 1, bool)
    codes_N = np.zeros(len(has_N))
    np.logical_or.at(has_N, line_R, stands_R)
    np.maximum.at(codes_N, line_R, codes_R)
    return has_N, codes_N
