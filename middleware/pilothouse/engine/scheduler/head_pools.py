"""Logits of tokens: of a head that pools, what it made of each request's tokens so far.

A pooled run is of one probe over one scope; its readouts of that scope share it. Scores of single
tokens that a client is shown are those over the output.

Shape suffixes: C rows of the score table, B requests of the step, T tokens, S tokens of runs end to
end, G reads of all probes, R reads of one, V columns of logits, W numbers of a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pilothouse.engine.plan.spec import ProbeFacts
from pilothouse.engine.scheduler.scored_spans import Cut
from pilothouse.probes.aggregators import Floats
from pilothouse.probes.heads import Pooling, make_head
from pilothouse.types import IntArray, Scope, SignalSpec

SHOWN: Scope = "output"
"""The scope over which token scores of a head that pools are told."""


@dataclass(slots=True)
class _PooledRun:
    """One probe over one scope; `logit` is its column among the logits."""

    pooling: Pooling
    scope: Scope
    reads: slice
    logit: int
    only_shown: bool
    """No readout covers it: it is folded while somebody is shown scores of tokens."""
    states_CW: Floats


class HeadPools:
    """Makes the columns of logits, and keeps the states of heads that pool."""

    def __init__(self, facts: Mapping[str, ProbeFacts], signals: Sequence[SignalSpec]) -> None:
        self._runs: list[_PooledRun] = []
        bias: list[float] = []
        read_of: list[int] = []
        by_scope: dict[tuple[str, Scope], int] = {}
        first = 0
        for name, probe in facts.items():
            count = len(probe.read_columns)
            pooling = make_head(probe.head).pooling()
            if pooling is None:
                by_scope |= dict.fromkeys(((name, scope) for scope in _SCOPES), len(bias))
                bias.append(probe.bias)
                read_of.append(first)
            else:
                covered = {spec.scope for spec in signals if spec.probe == name}
                for scope in sorted(covered | {SHOWN}):
                    by_scope[name, scope] = len(bias)
                    only_shown = scope not in covered
                    reads = slice(first, first + count)
                    states_CW = pooling.start(0)
                    run = _PooledRun(pooling, scope, reads, len(bias), only_shown, states_CW)
                    self._runs.append(run)
                    bias.append(probe.bias)
                    read_of.append(first)
            first += count
        self._bias_V = np.array(bias)
        self._read_of_V = np.array(read_of, np.int64)
        self._pooled_V = np.array([run.logit for run in self._runs], np.int64)
        self.logit_of_signal = [by_scope[spec.probe, spec.scope] for spec in signals]
        """Column of the logits that each signal aggregates."""
        self._logit_of_Q = np.array([by_scope[name, SHOWN] for name in facts], np.int64)
        self.scopes = {run.scope for run in self._runs}

    @property
    def state_bytes(self) -> int:
        """Memory of one request."""
        return sum(run.states_CW.itemsize * run.pooling.state_width for run in self._runs)

    def logits(self, reads_TG: Floats) -> Floats:
        """Return logits_TV; those of heads that pool are NaN until they are folded."""
        read_TV = reads_TG[:, self._read_of_V] if self._runs else reads_TG
        logits_TV: Floats = read_TV + self._bias_V
        logits_TV[:, self._pooled_V] = np.nan
        return logits_TV

    def of_probes(self, logits_TV: Floats) -> Floats:
        """Return the logits that are told of single tokens of each probe, [T, probes]."""
        return logits_TV[:, self._logit_of_Q] if self._runs else logits_TV

    def open(self, row: int) -> None:
        """Forget what was in a row."""
        for run in self._runs:
            run.states_CW[row] = run.pooling.start(1)[0]

    def grow(self, more: int) -> None:
        """Have so many more rows."""
        for run in self._runs:
            run.states_CW = np.concatenate([run.states_CW, run.pooling.start(more)])

    def step(
        self,
        rows_B: IntArray,
        tokens_B: IntArray,
        reads_TG: Floats,
        logits_TV: Floats,
        *,
        shown: bool,
    ) -> None:
        """Fold one token of each of these requests' answers, and write its logits."""
        for run in self._runs if len(rows_B) else ():
            if run.scope == "prompt" or (run.only_shown and not shown):
                continue
            states_BW = run.states_CW[rows_B]
            run.pooling.step(states_BW, reads_TG[tokens_B, run.reads])
            run.states_CW[rows_B] = states_BW
            logits_TV[tokens_B, run.logit] = run.pooling.value(states_BW) + self._bias_V[run.logit]

    def fold_runs(
        self, scoped: Mapping[Scope, Cut], reads_TG: Floats, logits_TV: Floats, *, shown: bool
    ) -> None:
        """Fold runs of several tokens, cut to each scope, and write their logits."""
        for run in self._runs if scoped else ():
            rows_R, counts_R, tokens_S = scoped[run.scope]
            if not len(rows_R) or (run.only_shown and not shown):
                continue
            states_RW = run.states_CW[rows_R]
            values_S = run.pooling.fold_runs(states_RW, reads_TG[tokens_S, run.reads], counts_R)
            run.states_CW[rows_R] = states_RW
            logits_TV[tokens_S, run.logit] = values_S + self._bias_V[run.logit]


_SCOPES: tuple[Scope, ...] = ("prompt", "output", "answer")
