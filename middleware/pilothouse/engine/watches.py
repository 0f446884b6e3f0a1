"""Streaming scores of every live request, folded over the whole batch at once.

A request's row holds its aggregator states, the values its rules see, and a cursor: the first
position not folded yet. Positions that come again after a preemption are folded once; positions
that a cache hit skipped are counted as unscored.

Shape suffixes: C rows of the table, B requests of the step, R runs in it that are not a single
answer token, T tokens, S tokens of runs end to end, E read columns, Q probes, K signals, L signals
of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.engine.feature_pool import FeaturePool
from pilothouse.engine.plan import Plan
from pilothouse.engine.step import Emissions
from pilothouse.probe.aggregator import Floats, make_aggregator
from pilothouse.types import FloatArray, IntArray, Scope


@dataclass(frozen=True, slots=True)
class Runs:
    """Positions [begins, stops) of rows, none empty; `tokens_R` is where each lies in the step."""

    rows_R: IntArray
    begins_R: IntArray
    stops_R: IntArray
    tokens_R: IntArray

    def lines(self) -> Iterator[tuple[int, int, int, int]]:
        """(row, first token in the step, first position, end) of each."""
        columns = (self.rows_R, self.tokens_R, self.begins_R, self.stops_R)
        return zip(*(each.tolist() for each in columns), strict=True)

    def whole(self) -> tuple[IntArray, NDArray[np.int64], IntArray]:
        """As `within`, of all positions."""
        return self.within(self.begins_R, self.stops_R)

    def within(
        self, lows_R: IntArray, highs_R: IntArray
    ) -> tuple[IntArray, NDArray[np.int64], IntArray]:
        """(rows, counts, tokens end to end) of what lies in [lows, highs), where something does."""
        begins_R = np.maximum(self.begins_R, lows_R)
        counts_R = np.minimum(self.stops_R, highs_R) - begins_R
        some_R = counts_R > 0
        counts = counts_R[some_R].astype(np.int64)
        starts = (self.tokens_R + begins_R - self.begins_R)[some_R]
        before = np.cumsum(counts) - counts
        tokens_S = np.repeat(starts - before, counts) + np.arange(counts.sum())
        return self.rows_R[some_R], counts, tokens_S


@dataclass(frozen=True, slots=True)
class Folded:
    """What a step brought: rows whose prompt is now whole, rows with a new answer position."""

    prompt_done: IntArray
    answered: IntArray
    logits_TQ: Floats
    spans: dict[int, tuple[int, int, int]]
    """row -> (first token in the step, first position, count) of what was newly folded."""


class Watches:
    """The fold. Rows are owned by the caller between `open` and `close`."""

    def __init__(self, plan: Plan) -> None:
        self.signals = plan.signals
        self.probes = tuple(plan.body.probes)
        facts = plan.body.probes
        columns = [facts[name].columns for name in self.probes]
        self._order_E = np.array([e for each in columns for e in each], np.int64)
        self._firsts_Q = np.cumsum([0, *(len(each) for each in columns)])[:-1]
        self._bias_Q = np.array([facts[name].bias for name in self.probes])
        self._probe_of_K = [self.probes.index(spec.probe) for spec in self.signals]
        self._aggregators = [make_aggregator(spec.aggregate) for spec in self.signals]
        self._slope_K = np.array([spec.slope for spec in self.signals])
        self._offset_K = np.array([spec.offset for spec in self.signals])
        late = [k for k, spec in enumerate(self.signals) if spec.scope != "prompt"]
        self._late_L = np.array(late, np.int64)
        self.features = FeaturePool(plan.body.logged)
        self._free: list[int] = []
        self._states = [aggregator.start(0) for aggregator in self._aggregators]
        self.values_CK = np.zeros((0, len(self.signals)))
        self.cursor_C = np.zeros(0, np.int64)
        self.prompt_C = np.zeros(0, np.int64)
        self.unscored_C = np.zeros(0, np.int64)
        self.scored_C = np.zeros(0, np.int64)

    def open(self, num_prompt_tokens: int) -> int:
        """A fresh row."""
        if not self._free:
            self._grow()
        row = self._free.pop()
        for state, aggregator in zip(self._states, self._aggregators, strict=True):
            state[row] = aggregator.start(1)[0]
        self.values_CK[row] = np.nan
        self.features.open(row)
        self.cursor_C[row] = self.unscored_C[row] = self.scored_C[row] = 0
        self.prompt_C[row] = num_prompt_tokens
        return row

    def close(self, row: int) -> None:
        """Give a row back."""
        self._free.append(row)

    def fold(
        self, emissions: Emissions, row_of: dict[str, int], *, wants_spans: bool = True
    ) -> Folded:
        """Take in a step's emissions; requests without a row are passed over.

        Without `wants_spans` there are no spans.
        """
        starts_B = np.array(emissions.starts, np.int64)
        counts_B = np.array(emissions.counts, np.int64)
        firsts_B = np.cumsum(counts_B) - counts_B
        rows_B = np.fromiter(
            (row_of.get(each, -1) for each in emissions.request_ids), np.int64, len(counts_B)
        )
        logits_TQ = self._logits(emissions.scores_TE)
        known_B = rows_B >= 0
        single_B = known_B & (counts_B == 1)
        single_B[single_B] = (starts_B[single_B] == self.cursor_C[rows_B[single_B]]) & (
            starts_B[single_B] >= self.prompt_C[rows_B[single_B]]
        )
        spans: dict[int, tuple[int, int, int]] = {}
        self._fold_singles(rows_B[single_B], logits_TQ[firsts_B[single_B]])
        self.features.take(rows_B[single_B], firsts_B[single_B], emissions.scores_TE)
        for b in np.flatnonzero(single_B) if wants_spans else ():
            spans[int(rows_B[b])] = (int(firsts_B[b]), int(starts_B[b]), 1)
        runs_B = known_B & ~single_B
        runs = self._fresh(rows_B[runs_B], starts_B[runs_B], counts_B[runs_B], firsts_B[runs_B])
        self._fold_runs(runs, logits_TQ)
        if self.features.busy:
            self.features.take_runs(*runs.whole(), emissions.scores_TE)
        for row, first, begin, stop in runs.lines() if wants_spans else ():
            spans[row] = (first, begin, stop - begin)
        last_prompt_R = self.prompt_C[runs.rows_R] - 1
        reaches_R = runs.stops_R > last_prompt_R
        done_R = reaches_R & (runs.begins_R <= last_prompt_R)
        answered = np.concatenate([rows_B[single_B], runs.rows_R[reaches_R]])
        return Folded(runs.rows_R[done_R], answered, logits_TQ, spans)

    def _logits(self, scores_TE: FloatArray) -> Floats:
        """Sums of each probe's columns only: an overflow in one probe stays its own."""
        ordered_TE = scores_TE[:, self._order_E].astype(np.float64)
        if not len(self.probes):
            return ordered_TE
        logits_TQ: Floats = np.add.reduceat(ordered_TE, self._firsts_Q, axis=1) + self._bias_Q
        return logits_TQ

    def values_of(self, row: int) -> dict[str, float]:
        """Signal key -> value, of the signals that have one."""
        pairs = zip(self.signals, self.values_CK[row].tolist(), strict=True)
        return {spec.key: value for spec, value in pairs if value == value}

    def _fold_singles(self, rows_B: IntArray, logits_BQ: Floats) -> None:
        if not len(rows_B):
            return
        raw_BL = np.empty((len(rows_B), len(self._late_L)))
        for i, k in enumerate(self._late_L.tolist()):
            state_BW = self._states[k][rows_B]
            self._aggregators[k].step(state_BW, logits_BQ[:, self._probe_of_K[k]])
            self._states[k][rows_B] = state_BW
            raw_BL[:, i] = self._aggregators[k].value(state_BW)
        late_L = self._late_L
        self.values_CK[rows_B[:, None], late_L] = self._calibrated(raw_BL, late_L)
        self.cursor_C[rows_B] += 1
        self.scored_C[rows_B] += 1

    def _fresh(
        self, rows_B: IntArray, starts_B: IntArray, counts_B: IntArray, firsts_B: IntArray
    ) -> Runs:
        """What of each run was not folded yet; positions that were passed over are counted."""
        cursor_B, stops_B = self.cursor_C[rows_B], starts_B + counts_B
        self.unscored_C[rows_B] += np.maximum(starts_B - cursor_B, 0)
        begins_B = np.maximum(starts_B, cursor_B)
        kept_B = stops_B > begins_B
        tokens_B = firsts_B + begins_B - starts_B
        return Runs(rows_B[kept_B], begins_B[kept_B], stops_B[kept_B], tokens_B[kept_B])

    def _fold_runs(self, runs: Runs, logits_TQ: Floats) -> None:
        """Add runs of several positions: each signal once for all requests of the batch."""
        if not len(runs.rows_R):
            return
        scoped = {
            scope: runs.within(*_scope_bounds(scope, self.prompt_C[runs.rows_R]))
            for scope in {spec.scope for spec in self.signals}
        }
        for k, spec in enumerate(self.signals):
            rows_R, counts_R, tokens_S = scoped[spec.scope]
            if len(rows_R):
                state_RW = self._states[k][rows_R]
                logits_S = logits_TQ[tokens_S, self._probe_of_K[k]]
                self._aggregators[k].fold_runs(state_RW, logits_S, counts_R)
                self._states[k][rows_R] = state_RW
                values_R = self._aggregators[k].value(state_RW)
                self.values_CK[rows_R, k] = self._calibrated(values_R, k)
        self.cursor_C[runs.rows_R] = runs.stops_R
        self.scored_C[runs.rows_R] += runs.stops_R - runs.begins_R

    def _calibrated(self, logits: Floats, signals: int | IntArray) -> Floats:
        scaled = self._slope_K[signals] * logits + self._offset_K[signals]
        probabilities: Floats = 1.0 / (1.0 + np.exp(-np.clip(scaled, -700.0, 700.0)))
        return probabilities

    def _grow(self) -> None:
        old = len(self.cursor_C)
        new = max(64, 2 * old)
        more = new - old
        self._states = [
            np.concatenate([state, aggregator.start(more)])
            for state, aggregator in zip(self._states, self._aggregators, strict=True)
        ]
        self.values_CK = np.concatenate(
            [self.values_CK, np.full((more, len(self.signals)), np.nan)]
        )
        for name in ("cursor_C", "prompt_C", "unscored_C", "scored_C"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more, np.int64)]))
        self.features.grow(new)
        self._free.extend(range(new - 1, old - 1, -1))


def _scope_bounds(scope: Scope, prompt_R: IntArray) -> tuple[IntArray, IntArray]:
    """Positions [low, high) of each request that a scope covers."""
    if scope == "prompt":
        return np.zeros_like(prompt_R), prompt_R
    first_R = prompt_R - 1 if scope == "answer" else prompt_R
    return first_R, np.full_like(prompt_R, 1 << 60)
