"""Streaming scores of every live request, folded over the whole batch at once.

A request's row holds its aggregator states, the values its rules see, and a cursor: the first
position not folded yet. Positions that come again after a preemption are folded once; positions
that a cache hit skipped are counted as unscored.

A readout of one position over the prompt reads every anchor (`engine.authorship`), the largest
counting. Anchors of the output are marked before they are fed, and raise that value again. What it
reads at the newest anchor of the prompt alone is kept beside it.

A probe whose head pools has no logit of its own at a token: each scope that its readouts cover has
a column of logits, what the head made of the scope's tokens so far (`head_pools`).

Shape suffixes: C rows of the table, B requests of the step, R runs in it that are not a single
answer token, T tokens, S tokens of runs end to end, E read columns, G reads of all probes (columns
added over layers), Q probes, V columns of logits, K signals, L signals of the answer, P signals of
the prompt, A anchors, M marked positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.scheduler.authorship import AnchorMarks, Authorship
from pilothouse.engine.scheduler.feature_pool import FeaturePool
from pilothouse.engine.scheduler.head_pools import HeadPools
from pilothouse.engine.scheduler.messages import Emissions
from pilothouse.engine.scheduler.scored_spans import (
    Cut,
    ScoredSpans,
    counted,
    is_anchored,
    scope_bounds,
)
from pilothouse.engine.scheduler.supplied_text import Supplied
from pilothouse.probes.aggregators import Floats, make_aggregator
from pilothouse.types import Aggregate, FloatArray, IntArray, Scope


@dataclass(frozen=True, slots=True)
class StepScores:
    """What a step brought to the score table.

    These are rows whose prompt is now whole, rows with a new answer position, rows whose values
    over the prompt are to be judged again, and what is judged position by position.
    """

    prompt_done: IntArray
    answered: IntArray
    again: IntArray
    supplied: tuple[Supplied, ...]
    logits_TQ: Floats
    """Of each probe; where its head pools, what it made of the output so far, if that is shown."""
    spans: dict[int, tuple[int, int, int]]
    """row -> (first token in the step, first position, count) of what was newly folded."""


class ScoreTable:
    """The fold. Rows are owned by the caller between `open` and `close`."""

    def __init__(self, plan: Plan) -> None:
        self.signals = plan.signals
        self.probes = tuple(plan.body.probes)
        facts = plan.body.probes
        read_columns = [each for name in self.probes for each in facts[name].read_columns]
        self._order_E = np.array([e for each in read_columns for e in each], np.int64)
        self._firsts_G = np.cumsum([0, *(len(each) for each in read_columns)])[:-1]
        self._pools = HeadPools(facts, self.signals)
        self._logit_of_K = self._pools.logit_of_signal
        self._anchored_K = [is_anchored(spec) for spec in self.signals]
        self._aggregators = [
            make_aggregator(Aggregate("max") if anchored else spec.aggregate)
            for spec, anchored in zip(self.signals, self._anchored_K, strict=True)
        ]
        self._scopes = {spec.scope for spec in self.signals} | self._pools.scopes
        self._slope_K = np.array([spec.slope for spec in self.signals])
        self._offset_K = np.array([spec.offset for spec in self.signals])
        late = [k for k, spec in enumerate(self.signals) if spec.scope != "prompt"]
        self._late_L = np.array(late, np.int64)
        self._prompt_P = [k for k, spec in enumerate(self.signals) if spec.scope == "prompt"]
        self.features = FeaturePool(plan.body.logged)
        self._free: list[int] = []
        self._states = [aggregator.start(0) for aggregator in self._aggregators]
        self.values_CK = np.zeros((0, len(self.signals)))
        self._newest_CK = np.zeros((0, len(self.signals)))
        self.cursor_C = np.zeros(0, np.int64)
        self.prompt_C = np.zeros(0, np.int64)
        self.answer_C = np.zeros(0, np.int64)
        """Where the answer begins: before the output if the client wrote its beginning."""
        self.question_C = np.zeros(0, np.int64)
        """Where what counts as the prompt ends: before an answer that is given to be checked, and
        behind what a client wrote of an answer that is to be continued, which counts as both."""
        self.unscored_C = np.zeros(0, np.int64)
        self.scored_C = np.zeros(0, np.int64)
        self._marks = AnchorMarks()
        self._anchors: dict[int, IntArray] = {}

    def open(self, prompt: int | Authorship, *, is_check: bool = False) -> int:
        """A fresh row for a prompt, or for one of so many tokens that shows no turns.

        Args:
            prompt: who wrote which part of it, or how many tokens it has.
            is_check: an answer at its end is given as what a model said.
        """
        authorship = Authorship.unmarked(prompt) if isinstance(prompt, int) else prompt
        if not self._free:
            self._grow()
        row = self._free.pop()
        for state, aggregator in zip(self._states, self._aggregators, strict=True):
            state[row] = aggregator.start(1)[0]
        self._pools.open(row)
        self.values_CK[row] = self._newest_CK[row] = np.nan
        self.features.open(row)
        self.cursor_C[row] = self.unscored_C[row] = self.scored_C[row] = 0
        self.prompt_C[row] = authorship.num_prompt_tokens
        self.answer_C[row] = authorship.answer_start
        self.question_C[row] = self.answer_C[row] if is_check else self.prompt_C[row]
        self._anchors[row] = authorship.anchors_A
        return row

    def close(self, row: int) -> None:
        """Give a row back."""
        self._free.append(row)
        self._marks.clear(row)

    def mark(self, row: int, position: int) -> None:
        """Mark an output position, not folded yet, with which an assistant's turn opens."""
        if position >= self.cursor_C[row]:
            self._marks.add(row, position)

    def fold(
        self, emissions: Emissions, row_of: dict[str, int], *, wants_spans: bool = True
    ) -> StepScores:
        """Take in a step's emissions; requests without a row are passed over.

        Without `wants_spans` there are no spans.
        """
        starts_B = np.array(emissions.starts, np.int64)
        counts_B = np.array(emissions.counts, np.int64)
        firsts_B = np.cumsum(counts_B) - counts_B
        rows_B = np.fromiter(
            (row_of.get(each, -1) for each in emissions.request_ids), np.int64, len(counts_B)
        )
        reads_TG = self._reads(emissions.scores_TE)
        logits_TV = self._pools.logits(reads_TG)
        known_B = rows_B >= 0
        single_B = known_B & (counts_B == 1)
        single_B[single_B] = (starts_B[single_B] == self.cursor_C[rows_B[single_B]]) & (
            starts_B[single_B] >= self.prompt_C[rows_B[single_B]]
        )
        spans: dict[int, tuple[int, int, int]] = {}
        singles_B, at_B = rows_B[single_B], starts_B[single_B]
        self._pools.step(singles_B, firsts_B[single_B], reads_TG, logits_TV, shown=wants_spans)
        self._fold_singles(singles_B, logits_TV[firsts_B[single_B]])
        self.features.take(rows_B[single_B], firsts_B[single_B], emissions.scores_TE)
        for b in np.flatnonzero(single_B) if wants_spans else ():
            spans[int(rows_B[b])] = (int(firsts_B[b]), int(starts_B[b]), 1)
        runs_B = known_B & ~single_B
        runs = self._fresh(rows_B[runs_B], starts_B[runs_B], counts_B[runs_B], firsts_B[runs_B])
        scoped = self._scoped(runs)
        self._pools.fold_runs(scoped, reads_TG, logits_TV, shown=wants_spans)
        supplied = self._supplied(runs, logits_TV)
        self._fold_runs(runs, scoped, logits_TV)
        again = singles_B[:0]
        if self._marks:
            again = np.concatenate(
                [
                    self._fold_marked(singles_B, at_B, logits_TV[firsts_B[single_B]]),
                    self._fold_marked_runs(runs, logits_TV),
                ]
            )
        if self.features.busy:
            self.features.take_runs(*runs.whole(), emissions.scores_TE)
        for row, first, begin, stop in runs.lines() if wants_spans else ():
            spans[row] = (first, begin, stop - begin)
        last_prompt_R = self.prompt_C[runs.rows_R] - 1
        reaches_R = runs.stops_R > last_prompt_R
        done_R = reaches_R & (runs.begins_R <= last_prompt_R)
        for each in supplied:
            each.values_SK[:, self._prompt_P] = self.values_CK[each.row, self._prompt_P]
        # What the client wrote of an answer is judged by itself, its last position included.
        judged_R = (runs.stops_R == last_prompt_R + 1) & (
            self.answer_C[runs.rows_R] <= last_prompt_R
        )
        answered = np.concatenate([singles_B, runs.rows_R[reaches_R & ~judged_R]])
        logits_TQ = self._pools.of_probes(logits_TV)
        return StepScores(runs.rows_R[done_R], answered, again, supplied, logits_TQ, spans)

    def _reads(self, scores_TE: FloatArray) -> Floats:
        """Sums over layers, of each read by itself: an overflow in one probe stays its own."""
        ordered_TE = scores_TE[:, self._order_E].astype(np.float64)
        if not len(self.probes):
            return ordered_TE
        reads_TG: Floats = np.add.reduceat(ordered_TE, self._firsts_G, axis=1)
        return reads_TG

    def _scoped(self, runs: ScoredSpans) -> dict[Scope, Cut]:
        """Cut runs to each scope that something covers; of no runs there are no cuts."""
        if not len(runs.rows_R):
            return {}
        question_R, answer_R = self.question_C[runs.rows_R], self.answer_C[runs.rows_R]
        return {
            scope: runs.within(*scope_bounds(scope, question_R, answer_R)) for scope in self._scopes
        }

    def values_of(self, row: int) -> dict[str, float]:
        """Signal key -> value, of the signals that have one."""
        pairs = zip(self.signals, self.values_CK[row].tolist(), strict=True)
        return {spec.key: value for spec, value in pairs if value == value}

    def values_for_answer(self, rows_B: IntArray) -> Floats:
        """values_BK of the answer that begins now: what is read at anchors is of the newest."""
        values_BK: Floats = self.values_CK[rows_B]
        anchored_K = np.array(self._anchored_K, bool)
        values_BK[:, anchored_K] = self._newest_CK[np.ix_(rows_B, anchored_K)]
        return values_BK

    def _fold_singles(self, rows_B: IntArray, logits_BV: Floats) -> None:
        if not len(rows_B):
            return
        raw_BL = np.empty((len(rows_B), len(self._late_L)))
        for i, k in enumerate(self._late_L.tolist()):
            state_BW = self._states[k][rows_B]
            self._aggregators[k].step(state_BW, logits_BV[:, self._logit_of_K[k]])
            self._states[k][rows_B] = state_BW
            raw_BL[:, i] = self._aggregators[k].value(state_BW)
        late_L = self._late_L
        self.values_CK[rows_B[:, None], late_L] = self._calibrated(raw_BL, late_L)
        self.cursor_C[rows_B] += 1
        self.scored_C[rows_B] += 1

    def _fresh(
        self, rows_B: IntArray, starts_B: IntArray, counts_B: IntArray, firsts_B: IntArray
    ) -> ScoredSpans:
        """What of each run was not folded yet; positions that were passed over are counted."""
        cursor_B, stops_B = self.cursor_C[rows_B], starts_B + counts_B
        self.unscored_C[rows_B] += np.maximum(starts_B - cursor_B, 0)
        begins_B = np.maximum(starts_B, cursor_B)
        kept_B = stops_B > begins_B
        tokens_B = firsts_B + begins_B - starts_B
        return ScoredSpans(rows_B[kept_B], begins_B[kept_B], stops_B[kept_B], tokens_B[kept_B])

    def _fold_runs(self, runs: ScoredSpans, scoped: Mapping[Scope, Cut], logits_TV: Floats) -> None:
        """Add runs of several positions: each signal once for all requests of the batch."""
        if not len(runs.rows_R):
            return
        at_anchors = runs.at(self._anchors, self.prompt_C[runs.rows_R])
        for k, spec in enumerate(self.signals):
            rows_R, counts_R, tokens_S = at_anchors if self._anchored_K[k] else scoped[spec.scope]
            if len(rows_R):
                logits_S = logits_TV[tokens_S, self._logit_of_K[k]]
                self.values_CK[rows_R, k] = self._added(k, rows_R, counts_R, logits_S)
                if self._anchored_K[k]:
                    newest_R = logits_S[np.cumsum(counts_R) - 1]
                    self._newest_CK[rows_R, k] = self._calibrated(newest_R, k)
        self.cursor_C[runs.rows_R] = runs.stops_R
        self.scored_C[runs.rows_R] += runs.stops_R - runs.begins_R

    def _added(self, k: int, rows_R: IntArray, counts_R: IntArray, logits_S: Floats) -> Floats:
        """Values of a signal after runs of several positions, which are added to its states."""
        state_RW = self._states[k][rows_R]
        self._aggregators[k].fold_runs(state_RW, logits_S, counts_R.astype(np.int64))
        self._states[k][rows_R] = state_RW
        return self._calibrated(self._aggregators[k].value(state_RW), k)

    def _supplied(self, runs: ScoredSpans, logits_TV: Floats) -> tuple[Supplied, ...]:
        """Before the runs are folded: values over the answer as they grow in what a client wrote.

        The answer's first position is judged with the one before it, as it is where nothing is
        supplied.
        """
        answer_R, prompt_R = self.answer_C[runs.rows_R], self.prompt_C[runs.rows_R]
        begins_R = np.maximum(runs.begins_R, answer_R - 1)
        stops_R = np.minimum(runs.stops_R, prompt_R)
        found = []
        for r in np.flatnonzero((answer_R < prompt_R) & (begins_R < stops_R)).tolist():
            row, begin, stop = int(runs.rows_R[r]), int(begins_R[r]), int(stops_R[r])
            token = int(runs.tokens_R[r] - runs.begins_R[r])
            values_SK = np.full((stop - begin, len(self.signals)), np.nan)
            for k in self._late_L.tolist():
                low = max(begin, int(answer_R[r]) - (self.signals[k].scope == "answer"))
                logits_S = logits_TV[token + low : token + stop, self._logit_of_K[k]]
                running_S = self._aggregators[k].running(self._states[k][row], logits_S)
                values_SK[low - begin :, k] = self._calibrated(running_S, k)
            found.append(Supplied(row, begin, values_SK))
        return tuple(found)

    def _fold_marked_runs(self, runs: ScoredSpans, logits_TV: Floats) -> IntArray:
        """As `_fold_marked`, of the output's positions in runs of several."""
        rows_R, counts_R, tokens_S = runs.within(self.prompt_C[runs.rows_R], runs.stops_R)
        if not len(rows_R):
            return rows_R
        # Of each request the run ends where its cursor now stands.
        behind_S = np.repeat(np.cumsum(counts_R), counts_R) - np.arange(len(tokens_S))
        rows_S = np.repeat(rows_R, counts_R)
        return self._fold_marked(rows_S, self.cursor_C[rows_S] - behind_S, logits_TV[tokens_S])

    def _fold_marked(self, rows_S: IntArray, at_S: IntArray, logits_SV: Floats) -> IntArray:
        """Raise values read at anchors where output positions are; rows to judge again.

        Positions of one row stand together, in their order.
        """
        marked_S = self._marks.take(rows_S, at_S)
        logits_MV = logits_SV[marked_S]
        rows_R, counts_R = counted(rows_S[marked_S])
        for k in np.flatnonzero(self._anchored_K).tolist() if len(rows_R) else ():
            logits_M = logits_MV[:, self._logit_of_K[k]]
            self.values_CK[rows_R, k] = self._added(k, rows_R, counts_R, logits_M)
        return rows_R

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
        self._pools.grow(more)
        unknown = np.full((more, len(self.signals)), np.nan)
        self.values_CK = np.concatenate([self.values_CK, unknown])
        self._newest_CK = np.concatenate([self._newest_CK, unknown])
        self._marks.grow(more)
        for name in ("cursor_C", "prompt_C", "answer_C", "question_C", "unscored_C", "scored_C"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more, np.int64)]))
        self.features.grow(new)
        self._free.extend(range(new - 1, old - 1, -1))
