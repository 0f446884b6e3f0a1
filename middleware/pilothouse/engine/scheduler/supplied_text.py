"""What a client wrote of an answer, judged by output rules token by token.

It stands in the prompt, so that nothing can end before the prompt is whole: what rules come to on
the way is kept until then.

Shape suffixes: S positions of one request, K signals, R output rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.policy.decide import running_streaks
from pilothouse.policy.rulebook import Rulebook
from pilothouse.probes.aggregators import Floats
from pilothouse.types import BoolArray

JUDGED_AT_ONCE = 1024
"""Positions, so that what one evaluation takes of memory is bounded."""


@dataclass(frozen=True, slots=True)
class Supplied:
    """Positions of an answer that the client wrote, with what rules see after each of them."""

    row: int
    begin: int
    values_SK: Floats


class SuppliedRules:
    """Output rules over what clients wrote, by the rows of the watch table."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._needed_R = rulebook.streaks_of("output")
        self._met: dict[int, tuple[BoolArray, BoolArray]] = {}

    def follow(
        self, supplied: Supplied, answer: int, active_R: BoolArray, streaks_R: NDArray[np.int64]
    ) -> None:
        """Take in more positions of a request.

        Args:
            supplied: values of the signals as they grew in it.
            answer: where its answer begins.
            active_R: which rules apply to it.
            streaks_R: of its rules, updated in place.
        """
        if not len(active_R):
            return
        fired_R, missing_R = self._met.setdefault(
            supplied.row, (np.zeros_like(active_R), np.zeros_like(active_R))
        )
        num_signals = len(self._rulebook.signals)
        for first in range(0, len(supplied.values_SK), JUDGED_AT_ONCE):
            values_SK = supplied.values_SK[first : first + JUDGED_AT_ONCE, :num_signals]
            holds_SR, lacks_SR = self._rulebook.outcomes("output", values_SK)
            begun_S = supplied.begin + first + np.arange(len(values_SK)) >= answer
            streaks_SR = running_streaks(streaks_R, holds_SR)
            streaks_R[:] = streaks_SR[-1]
            fired_R |= (streaks_SR >= self._needed_R).any(axis=0) & active_R
            missing_R |= (lacks_SR & begun_S[:, None]).any(axis=0) & active_R
        missing_R &= ~fired_R

    def take(self, row: int) -> tuple[BoolArray, BoolArray] | None:
        """(fired_R, missing_R) of a request, which are then forgotten; None if it has none."""
        return self._met.pop(row, None)
