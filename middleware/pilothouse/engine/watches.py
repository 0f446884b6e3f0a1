"""Streaming scores of every live request, folded over the whole batch at once.

A request's row holds its aggregator states, the values its rules see, and a cursor: the first
position not folded yet. Positions that come again after a preemption are folded once; positions
that a cache hit skipped are counted as unscored.

Shape suffixes: C rows of the table, B requests of the step, T tokens, E read columns, Q probes,
K signals, L signals of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilothouse.engine.plan import Plan
from pilothouse.engine.step import Emissions
from pilothouse.probe.aggregator import Floats, make_aggregator
from pilothouse.types import FloatArray, IntArray, SignalSpec


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

        Without `wants_spans` the spans of single tokens are left out.
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
        for b in np.flatnonzero(single_B) if wants_spans else ():
            spans[int(rows_B[b])] = (int(firsts_B[b]), int(starts_B[b]), 1)
        done: list[int] = []
        answered: list[int] = rows_B[single_B].tolist()
        for b in np.flatnonzero(known_B & ~single_B):
            row, first, start = int(rows_B[b]), int(firsts_B[b]), int(starts_B[b])
            span = self._fold_run(row, start, logits_TQ[first : first + int(counts_B[b])])
            if span is None:
                continue
            offset, begin, count = span
            spans[row] = (first + offset, begin, count)
            last_prompt = int(self.prompt_C[row]) - 1
            if begin <= last_prompt < begin + count:
                done.append(row)
            if begin + count > last_prompt:
                answered.append(row)
        return Folded(np.array(done, np.int64), np.array(answered, np.int64), logits_TQ, spans)

    def _logits(self, scores_TE: FloatArray) -> Floats:
        """Sums of each probe's columns only: an overflow in one probe stays its own."""
        ordered_TE = scores_TE.astype(np.float64)[:, self._order_E]
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

    def _fold_run(self, row: int, start: int, logits_RQ: Floats) -> tuple[int, int, int] | None:
        cursor = int(self.cursor_C[row])
        if start > cursor:
            self.unscored_C[row] += start - cursor
            cursor = start
        stop = start + len(logits_RQ)
        if stop <= cursor:
            return None
        offset = cursor - start
        fresh_RQ = logits_RQ[offset:]
        prompt = int(self.prompt_C[row])
        for k, spec in enumerate(self.signals):
            low, high = _scope_bounds(spec, prompt)
            part = fresh_RQ[max(low - cursor, 0) : max(high - cursor, 0), self._probe_of_K[k]]
            if len(part):
                self._aggregators[k].fold(self._states[k][row], part)
                value_1 = self._aggregators[k].value(self._states[k][row : row + 1])
                self.values_CK[row, k] = self._calibrated(value_1, k)[0]
        self.cursor_C[row] = stop
        self.scored_C[row] += stop - cursor
        return offset, cursor, stop - cursor

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
        self._free.extend(range(new - 1, old - 1, -1))


def _scope_bounds(spec: SignalSpec, num_prompt_tokens: int) -> tuple[int, int]:
    if spec.scope == "prompt":
        return 0, num_prompt_tokens
    first = num_prompt_tokens - 1 if spec.scope == "answer" else num_prompt_tokens
    return first, 1 << 60
