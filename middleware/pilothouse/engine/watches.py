"""Streaming scores of every live request, folded over the whole batch at once.

A request's row holds its aggregator states, the values its rules see, and a cursor: the first
position not folded yet. Positions that come again after a preemption are folded once; positions
that a cache hit skipped are counted as unscored.

A readout of one position over the prompt reads every anchor (`engine.authorship`), the largest
counting. Anchors of the output, and forced positions, are marked before they are fed; with them
values over the prompt rise again.

Shape suffixes: C rows of the table, B requests of the step, R runs in it that are not a single
answer token, T tokens, S tokens of runs end to end, E read columns, Q probes, K signals, L signals
of the answer, P signals of the prompt, A anchors, M marked positions, W the window of marks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.engine.authorship import Authorship
from pilothouse.engine.feature_pool import FeaturePool
from pilothouse.engine.plan import Plan
from pilothouse.engine.step import Emissions
from pilothouse.probe.aggregator import Floats, make_aggregator
from pilothouse.types import Aggregate, FloatArray, IntArray, Scope, SignalSpec

ANCHOR, FORCED, RUN_END = 1, 2, 4
"""Marks of an output position: an assistant's turn opens with it; the client chose it; and it was
the last such one for now."""
MARKED_AHEAD = 1024
"""How far ahead of the cursor a position can be marked; more than drafts of one step."""


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
    """What a step brought: rows whose prompt is now whole, rows with a new answer position, rows
    whose values over the prompt are to be judged again."""

    prompt_done: IntArray
    answered: IntArray
    again: IntArray
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
        self._anchored_K = [is_anchored(spec) for spec in self.signals]
        self._aggregators = [
            make_aggregator(Aggregate("max") if anchored else spec.aggregate)
            for spec, anchored in zip(self.signals, self._anchored_K, strict=True)
        ]
        self._slope_K = np.array([spec.slope for spec in self.signals])
        self._offset_K = np.array([spec.offset for spec in self.signals])
        late = [k for k, spec in enumerate(self.signals) if spec.scope != "prompt"]
        self._late_L = np.array(late, np.int64)
        self._prompt_P = [k for k, spec in enumerate(self.signals) if spec.scope == "prompt"]
        self.features = FeaturePool(plan.body.logged)
        self._free: list[int] = []
        self._states = [aggregator.start(0) for aggregator in self._aggregators]
        self.values_CK = np.zeros((0, len(self.signals)))
        self.cursor_C = np.zeros(0, np.int64)
        self.prompt_C = np.zeros(0, np.int64)
        self.answer_C = np.zeros(0, np.int64)
        """Where the answer begins: before the output if the client wrote its beginning."""
        self.unscored_C = np.zeros(0, np.int64)
        self.scored_C = np.zeros(0, np.int64)
        self._marks_CW = np.zeros((0, MARKED_AHEAD), np.uint8)
        self._num_marks = 0
        self._anchors: dict[int, IntArray] = {}

    def open(self, prompt: int | Authorship) -> int:
        """A fresh row for a prompt, or for one of so many tokens that shows no turns."""
        authorship = Authorship.unmarked(prompt) if isinstance(prompt, int) else prompt
        if not self._free:
            self._grow()
        row = self._free.pop()
        for state, aggregator in zip(self._states, self._aggregators, strict=True):
            state[row] = aggregator.start(1)[0]
        self.values_CK[row] = np.nan
        self.features.open(row)
        self.cursor_C[row] = self.unscored_C[row] = self.scored_C[row] = 0
        self.prompt_C[row] = authorship.num_prompt_tokens
        self.answer_C[row] = authorship.answer_start
        self._anchors[row] = authorship.anchors_A
        return row

    def close(self, row: int) -> None:
        """Give a row back."""
        self._free.append(row)
        self._num_marks -= int(np.count_nonzero(self._marks_CW[row]))
        self._marks_CW[row] = 0

    def mark(self, row: int, position: int, marks: int) -> None:
        """Mark an output position that is not folded yet."""
        if position >= self.cursor_C[row]:
            known = int(self._marks_CW[row, position % MARKED_AHEAD])
            self._num_marks += known == 0
            self._marks_CW[row, position % MARKED_AHEAD] = known | marks

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
        singles_B, at_B = rows_B[single_B], starts_B[single_B]
        self._fold_singles(singles_B, logits_TQ[firsts_B[single_B]])
        self.features.take(rows_B[single_B], firsts_B[single_B], emissions.scores_TE)
        for b in np.flatnonzero(single_B) if wants_spans else ():
            spans[int(rows_B[b])] = (int(firsts_B[b]), int(starts_B[b]), 1)
        runs_B = known_B & ~single_B
        runs = self._fresh(rows_B[runs_B], starts_B[runs_B], counts_B[runs_B], firsts_B[runs_B])
        self._fold_runs(runs, logits_TQ)
        again = singles_B[:0]
        if self._num_marks:
            again = np.concatenate(
                [
                    self._fold_marked(singles_B, at_B, logits_TQ[firsts_B[single_B]]),
                    self._fold_marked_runs(runs, logits_TQ),
                ]
            )
        if self.features.busy:
            self.features.take_runs(*runs.whole(), emissions.scores_TE)
        for row, first, begin, stop in runs.lines() if wants_spans else ():
            spans[row] = (first, begin, stop - begin)
        last_prompt_R = self.prompt_C[runs.rows_R] - 1
        reaches_R = runs.stops_R > last_prompt_R
        done_R = reaches_R & (runs.begins_R <= last_prompt_R)
        answered = np.concatenate([rows_B[single_B], runs.rows_R[reaches_R]])
        return Folded(runs.rows_R[done_R], answered, again, logits_TQ, spans)

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
        prompt_R, answer_R = self.prompt_C[runs.rows_R], self.answer_C[runs.rows_R]
        scoped = {
            scope: runs.within(*_scope_bounds(scope, prompt_R, answer_R))
            for scope in {spec.scope for spec in self.signals}
        }
        at_anchors = self._at_anchors(runs) if any(self._anchored_K) else scoped.get("prompt")
        for k, spec in enumerate(self.signals):
            found = at_anchors if self._anchored_K[k] else scoped[spec.scope]
            assert found is not None
            rows_R, counts_R, tokens_S = found
            if len(rows_R):
                logits_S = logits_TQ[tokens_S, self._probe_of_K[k]]
                self.values_CK[rows_R, k] = self._added(k, rows_R, counts_R, logits_S)
        self.cursor_C[runs.rows_R] = runs.stops_R
        self.scored_C[runs.rows_R] += runs.stops_R - runs.begins_R

    def _added(self, k: int, rows_R: IntArray, counts_R: IntArray, logits_S: Floats) -> Floats:
        """Values of a signal after runs of several positions, which are added to its states."""
        state_RW = self._states[k][rows_R]
        self._aggregators[k].fold_runs(state_RW, logits_S, counts_R.astype(np.int64))
        self._states[k][rows_R] = state_RW
        return self._calibrated(self._aggregators[k].value(state_RW), k)

    def _at_anchors(self, runs: Runs) -> tuple[IntArray, NDArray[np.int64], IntArray]:
        """(rows, counts, tokens end to end) of the prompt's anchors in the runs, where some are."""
        chosen = np.flatnonzero(runs.begins_R < self.prompt_C[runs.rows_R])
        every = [self._anchors[row] for row in runs.rows_R[chosen].tolist()]
        run_A = np.repeat(chosen, [len(each) for each in every])
        anchors_A = np.concatenate([np.zeros(0, np.int64), *every])
        here_A = (anchors_A >= runs.begins_R[run_A]) & (anchors_A < runs.stops_R[run_A])
        run_A, anchors_A = run_A[here_A], anchors_A[here_A]
        found, counts = np.unique(run_A, return_counts=True)
        tokens_S = runs.tokens_R[run_A] + anchors_A - runs.begins_R[run_A]
        return runs.rows_R[found], counts.astype(np.int64), tokens_S

    def _fold_marked_runs(self, runs: Runs, logits_TQ: Floats) -> IntArray:
        """As `_fold_marked`, of the output's positions in runs of several."""
        rows_R, counts_R, tokens_S = runs.within(self.prompt_C[runs.rows_R], runs.stops_R)
        if not len(rows_R):
            return rows_R
        # Of each request the run ends where its cursor now stands.
        behind_S = np.repeat(np.cumsum(counts_R), counts_R) - np.arange(len(tokens_S))
        rows_S = np.repeat(rows_R, counts_R)
        return self._fold_marked(rows_S, self.cursor_C[rows_S] - behind_S, logits_TQ[tokens_S])

    def _fold_marked(self, rows_S: IntArray, at_S: IntArray, logits_SQ: Floats) -> IntArray:
        """Raise values over the prompt where output positions are marked; rows to judge again.

        Positions of one row stand together, in their order.
        """
        marks_S = self._marks_CW[rows_S, at_S % MARKED_AHEAD]
        marked_M = np.flatnonzero(marks_S)
        rows_M, marks_M, logits_MQ = rows_S[marked_M], marks_S[marked_M], logits_SQ[marked_M]
        self._marks_CW[rows_M, at_S[marked_M] % MARKED_AHEAD] = 0
        self._num_marks -= len(marked_M)
        ends = rows_M[(marks_M & (ANCHOR | RUN_END)) > 0]
        for k in self._prompt_P:
            mine_M = (marks_M & (ANCHOR if self._anchored_K[k] else FORCED)) > 0
            rows_R, counts_R = _counted(rows_M[mine_M])
            if len(rows_R):
                logits_S = logits_MQ[mine_M, self._probe_of_K[k]]
                self._added(k, rows_R, counts_R, logits_S)
        for k in self._prompt_P if len(ends) else ():
            values = self._calibrated(self._aggregators[k].value(self._states[k][ends]), k)
            self.values_CK[ends, k] = np.maximum(self.values_CK[ends, k], values)
        return np.unique(ends)

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
        self._marks_CW = np.concatenate([self._marks_CW, np.zeros((more, MARKED_AHEAD), np.uint8)])
        for name in ("cursor_C", "prompt_C", "answer_C", "unscored_C", "scored_C"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more, np.int64)]))
        self.features.grow(new)
        self._free.extend(range(new - 1, old - 1, -1))


def is_anchored(spec: SignalSpec) -> bool:
    """Whether a signal reads one position of the prompt, which must not be the client's choice."""
    return spec.scope == "prompt" and spec.aggregate.kind == "last"


def _scope_bounds(
    scope: Scope, prompt_R: IntArray, answer_R: IntArray
) -> tuple[IntArray, IntArray]:
    """Positions [low, high) of each request that a scope covers."""
    if scope == "prompt":
        return np.zeros_like(prompt_R), prompt_R
    first_R = answer_R - 1 if scope == "answer" else answer_R
    return first_R, np.full_like(prompt_R, 1 << 60)


def _counted(rows_M: IntArray) -> tuple[IntArray, IntArray]:
    """Each row once, in the order in which they stand together, and how often it stands there."""
    firsts = np.flatnonzero(np.append(True, np.diff(rows_M) != 0)[: len(rows_M)])
    return rows_M[firsts], np.diff(np.append(firsts, len(rows_M)))
