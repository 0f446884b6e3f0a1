"""Gives features their labels, by where each is strongest in the texts of the training.

The rule was written down before there was an SAE. A feature's strongest contexts are the tokens of
its largest codes, one of each line. It can have a concept's label where at least `SHARE` of them
lie within reach of the concept's words: in such a word, or within `NEAR` tokens of one. Of the
features that can, a concept's label goes to the one whose code tells tokens within reach from all
others best, over the whole training text. No feature gets two.

How well a labelled feature tells its label's words in fresh text is measured beside features that
are drawn by lot.

Shape suffixes: R rows, M features, N lines, K strongest contexts of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.demo.sae.concepts import Concept
from pilothouse.demo.sae.lines import Bools, Line, Rows
from pilothouse.demo.sae.sae_card import Detection
from pilothouse.probes.metrics import auroc, bootstrap, tpr_at_fpr

STRONGEST: Final = 30
SHARE: Final = 0.6
REACHES: Final = (0, 8)
"""Tokens between a word of the concept and a token that counts as within reach of it."""
TRIED: Final = 12
"""Features whose AUROC is computed for a concept and a reach: those of the largest shares."""
SHOWN: Final = 8
"""Words under a feature's largest codes that are shown."""


class Label(NamedTuple):
    """A feature and its label."""

    feature: int
    name: str
    reach: int
    share: float
    """The share of its strongest contexts that lie within reach of the label's words."""
    auroc: float
    """Its AUROC in the texts of the training, from which it was chosen."""
    strongest: tuple[str, ...]
    """The tokens of its largest codes."""


def in_reach(lines: Sequence[Line], rows: Rows, concept: Concept, reach: int) -> Bools:
    """Say of each row whether it lies within reach of a concept's words."""
    [found_R] = in_reaches(lines, rows, concept, (reach,))
    return found_R


def in_reaches(
    lines: Sequence[Line], rows: Rows, concept: Concept, reaches: Sequence[int]
) -> list[Bools]:
    """Say the same of several reaches, for the words are looked for but once."""
    found = [np.zeros(len(rows.line_R), bool) for _ in reaches]
    ends = np.searchsorted(rows.line_R, np.arange(len(lines) + 1))
    for at, line in enumerate(lines):
        own = slice(ends[at], ends[at + 1])
        if own.start == own.stop:
            continue
        stands_T = line.stands_in_T(concept)
        if stands_T.any():
            for found_R, reach in zip(found, reaches, strict=True):
                found_R[own] = widened(stands_T, reach)[rows.position_R[own]]
    return found


def widened(stands_T: Bools, reach: int) -> Bools:
    """Say of each token whether one that stands lies within reach of it, on either side."""
    whole = np.convolve(stands_T, np.ones(2 * reach + 1, np.int64))
    found: Bools = whole[reach : reach + len(stands_T)] > 0
    return found


def strongest_contexts(codes_RM: Any, line_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows_MK of each feature's largest codes, one of each line, or -1 behind the last."""
    rows_MK = np.full((codes_RM.shape[1], STRONGEST), -1, np.int64)
    for feature in range(codes_RM.shape[1]):
        own = slice(codes_RM.indptr[feature], codes_RM.indptr[feature + 1])
        rows, codes = codes_RM.indices[own], codes_RM.data[own]
        ordered = rows[np.argsort(-codes, kind="stable")]
        _, first = np.unique(line_R[ordered], return_index=True)
        chosen = ordered[np.sort(first)[:STRONGEST]]
        rows_MK[feature, : len(chosen)] = chosen
    return rows_MK


def labels_of(
    codes_RM: Any, lines: Sequence[Line], rows: Rows, concepts: Mapping[str, Concept], advance: Any
) -> list[Label]:
    """Return the labels that the training texts give, the best told first."""
    rows_MK = strongest_contexts(codes_RM, rows.line_R)
    # A feature with fewer contexts than are asked for has too few to be labelled by.
    whole_M: Bools = rows_MK[:, -1] >= 0
    found: list[Label] = []
    for concept in concepts.values():
        near = in_reaches(lines, rows, concept, REACHES)
        for reach, near_R in zip(REACHES, near, strict=True):
            label = (concept.name, reach)
            found += _candidates(codes_RM, lines, rows, label, near_R, rows_MK, whole_M)
        advance(1)
    return _dealt(found)


def _candidates(
    codes_RM: Any,
    lines: Sequence[Line],
    rows: Rows,
    label: tuple[str, int],
    near_R: Bools,
    rows_MK: NDArray[np.int64],
    whole_M: Bools,
) -> list[Label]:
    """Return those that a label and a reach may go to, with their figures."""
    if near_R.all() or not near_R.any():
        return []
    shares_M = np.where(whole_M, near_R[rows_MK].mean(axis=1), 0.0)
    order = np.argsort(-shares_M, kind="stable")[:TRIED]
    return [
        Label(
            int(feature),
            *label,
            float(shares_M[feature]),
            auroc(codes_RM[:, [feature]].toarray().ravel(), near_R),
            _tokens(lines, rows, rows_MK[feature]),
        )
        for feature in order
        if shares_M[feature] >= SHARE
    ]


def _dealt(found: Sequence[Label]) -> list[Label]:
    """Deal labels out, the best told first; each feature and each label once."""
    dealt: list[Label] = []
    for each in sorted(found, key=lambda label: -label.auroc):
        if all(each.feature != one.feature and each.name != one.name for one in dealt):
            dealt.append(each)
    return dealt


def _tokens(lines: Sequence[Line], rows: Rows, strongest_K: NDArray[np.int64]) -> tuple[str, ...]:
    told: dict[str, None] = {}
    for row in strongest_K:
        line = lines[rows.line_R[row]]
        start, end = line.spans[rows.position_R[row]]
        told.setdefault(line.text[start:end].strip())
    return tuple(each for each in told if each)[:SHOWN]


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
