"""Runs of positions that a step read, cut to what a scope covers.

Shape suffixes: R runs, S tokens of runs end to end, A anchors, M tokens row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.head import TRAITS
from pilothouse.types import IntArray, Scope, SignalSpec

Cut = tuple[IntArray, NDArray[np.int64], IntArray]
"""(rows, how many tokens of each, the tokens end to end)."""


@dataclass(frozen=True, slots=True)
class ScoredSpans:
    """Positions [begins, stops) of rows, none empty; `tokens_R` is where each lies in the step."""

    rows_R: IntArray
    begins_R: IntArray
    stops_R: IntArray
    tokens_R: IntArray

    def lines(self) -> Iterator[tuple[int, int, int, int]]:
        """(row, first token in the step, first position, end) of each."""
        columns = (self.rows_R, self.tokens_R, self.begins_R, self.stops_R)
        return zip(*(each.tolist() for each in columns), strict=True)

    def whole(self) -> Cut:
        """As `within`, of all positions."""
        return self.within(self.begins_R, self.stops_R)

    def within(self, lows_R: IntArray, highs_R: IntArray) -> Cut:
        """(rows, counts, tokens end to end) of what lies in [lows, highs), where something does."""
        begins_R = np.maximum(self.begins_R, lows_R)
        counts_R = np.minimum(self.stops_R, highs_R) - begins_R
        some_R = counts_R > 0
        counts = counts_R[some_R].astype(np.int64)
        starts = (self.tokens_R + begins_R - self.begins_R)[some_R]
        before = np.cumsum(counts) - counts
        tokens_S = np.repeat(starts - before, counts) + np.arange(counts.sum())
        return self.rows_R[some_R], counts, tokens_S

    def at(self, anchors: Mapping[int, IntArray], below_R: IntArray) -> Cut:
        """As `within`, of single positions of each row, of runs that begin below a position."""
        chosen = np.flatnonzero(self.begins_R < below_R)
        every = [anchors[row] for row in self.rows_R[chosen].tolist()]
        run_A = np.repeat(chosen, [len(each) for each in every])
        anchors_A = np.concatenate([np.zeros(0, np.int64), *every])
        here_A = (anchors_A >= self.begins_R[run_A]) & (anchors_A < self.stops_R[run_A])
        run_A, anchors_A = run_A[here_A], anchors_A[here_A]
        found, counts = np.unique(run_A, return_counts=True)
        tokens_S = self.tokens_R[run_A] + anchors_A - self.begins_R[run_A]
        return self.rows_R[found], counts.astype(np.int64), tokens_S


def is_anchored(spec: SignalSpec) -> bool:
    """Whether a signal reads one position of the prompt, which must not be the client's choice.

    A head that pools reads all of them up to there, whatever stands last.
    """
    reads_one = spec.scope == "prompt" and spec.aggregate.kind == "last"
    return reads_one and not TRAITS[spec.head].pools


def scope_bounds(scope: Scope, prompt_R: IntArray, answer_R: IntArray) -> tuple[IntArray, IntArray]:
    """Positions [low, high) of each request that a scope covers."""
    if scope == "prompt":
        return np.zeros_like(prompt_R), prompt_R
    first_R = answer_R - 1 if scope == "answer" else answer_R
    return first_R, np.full_like(prompt_R, 1 << 60)


def counted(rows_M: IntArray) -> tuple[IntArray, IntArray]:
    """Each row once, in the order in which they stand together, and how often it stands there."""
    firsts = np.flatnonzero(np.append(True, np.diff(rows_M) != 0)[: len(rows_M)])
    return rows_M[firsts], np.diff(np.append(firsts, len(rows_M)))
