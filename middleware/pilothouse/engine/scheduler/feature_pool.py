"""The largest code of each logged SAE feature over what requests were fed, for all of them at once.

The largest in size: codes may be negative, and keep their sign.

Codes come from the scores like everything that is read: before any edit at the tap.

Shape suffixes: C rows of the watch table, B requests of a step, R runs of several tokens, T tokens,
S tokens of runs end to end, E read columns, F logged features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pilothouse.engine.plan.spec import LoggedSae
from pilothouse.record import FeatureCode
from pilothouse.types import FloatArray, IntArray


class FeaturePool:
    """Rows are the watch table's; a feature that was never on has the code 0."""

    def __init__(self, saes: Sequence[LoggedSae]) -> None:
        self._saes = tuple(saes)
        self._columns_F = np.array([e for each in saes for e in each.columns], np.int64)
        self._bias_F = np.array([b for each in saes for b in each.biases], np.float32)
        self._threshold_F = np.array([t for each in saes for t in each.thresholds], np.float32)
        self._codes_CF = np.zeros((0, len(self._columns_F)), np.float32)

    @property
    def busy(self) -> bool:
        """Some rule logs features."""
        return bool(len(self._columns_F))

    def open(self, row: int) -> None:
        """Forget what was there."""
        self._codes_CF[row] = 0.0

    def take(self, rows_B: IntArray, tokens_B: IntArray, scores_TE: FloatArray) -> None:
        """One token for each of these requests."""
        if self.busy and len(rows_B):
            codes_BF = self._codes(scores_TE, tokens_B)
            self._codes_CF[rows_B] = _larger(self._codes_CF[rows_B], codes_BF)

    def take_runs(
        self, rows_R: IntArray, counts_R: IntArray, tokens_S: IntArray, scores_TE: FloatArray
    ) -> None:
        """A run of tokens, at least one, for each of these requests."""
        if self.busy and len(rows_R):
            codes_SF = self._codes(scores_TE, tokens_S)
            starts_R = np.cumsum(counts_R) - counts_R
            highest_RF = np.maximum.reduceat(codes_SF, starts_R, axis=0)
            lowest_RF = np.minimum.reduceat(codes_SF, starts_R, axis=0)
            found_RF = _larger(highest_RF, lowest_RF)
            self._codes_CF[rows_R] = _larger(self._codes_CF[rows_R], found_RF)

    def grow(self, rows: int) -> None:
        """Have at least this many rows."""
        more = np.zeros((rows - len(self._codes_CF), len(self._columns_F)), np.float32)
        self._codes_CF = np.concatenate([self._codes_CF, more])

    def top(self, row: int, sae: str, features: Sequence[int], count: int) -> list[FeatureCode]:
        """The largest codes of some features, largest first; what was never on is left out."""
        start = 0
        for each in self._saes:
            stop = start + len(each.features)
            if each.sae == sae:
                return _largest(each, self._codes_CF[row, start:stop], features, count)
            start = stop
        raise KeyError(sae)

    def _codes(self, scores_TE: FloatArray, tokens: IntArray) -> FloatArray:
        z_SF = scores_TE[tokens[:, None], self._columns_F] + self._bias_F
        # What is not finite is over no threshold: it counts as not on.
        is_on_SF = (z_SF > self._threshold_F) & np.isfinite(z_SF)
        codes_SF: FloatArray = np.where(is_on_SF, z_SF, np.float32(0.0))
        return codes_SF


def _larger(one: FloatArray, other: FloatArray) -> FloatArray:
    found: FloatArray = np.where(np.abs(other) > np.abs(one), other, one)
    return found


def _largest(
    sae: LoggedSae, codes_F: FloatArray, features: Sequence[int], count: int
) -> list[FeatureCode]:
    wanted = set(features)
    known = zip(sae.features, codes_F.tolist(), sae.labels, strict=True)
    on = [FeatureCode(*each) for each in known if each[0] in wanted and each[1]]
    return sorted(on, key=lambda each: (-abs(each.code), each.feature))[:count]
