"""Worker side of steering: what each live request gets, spread over the tokens of a step.

Shape suffixes: B requests of the step, T its tokens, R rows of the request table, P policy targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pilothouse.engine.buffers import TapBuffers
from pilothouse.engine.step import PolicySpan, Steering, StepPlan
from pilothouse.types import IntArray

NOBODY = 0


class SteeringState:
    """Keeps what the scheduler said of each request until it ends; row 0 is `not steered`."""

    def __init__(self, buffers: TapBuffers, num_targets: int) -> None:
        self._buffers = buffers
        self._num_targets = num_targets
        self._row_of: dict[str, int] = {}
        self._free: list[int] = []
        self._slots_R2 = np.zeros((1, 2), dtype=np.int64)
        self._coefficients_R2 = np.zeros((1, 2), dtype=np.float32)
        self._prompt_R = np.zeros(1, dtype=np.int64)
        self._spans: dict[str, dict[tuple[int, int], PolicySpan]] = {}

    def apply(self, plan: StepPlan, ended: set[str]) -> None:
        """Take in a step's news: uploads, new requests, policy spans, requests that ended."""
        for request_id in ended:
            row = self._row_of.pop(request_id, None)
            if row is not None:
                self._free.append(row)
            self._spans.pop(request_id, None)
        for upload in plan.uploads:
            self._buffers.upload(upload)
        for request_id, steering in plan.steering.items():
            self._set(request_id, steering)
        for span in plan.spans:
            self._spans.setdefault(span.request_id, {})[(span.target, span.start)] = span

    def write(self, request_ids: Sequence[str], starts_B: IntArray, counts_B: IntArray) -> None:
        """Fill slot, coefficient and policy buffers for a step in batch order."""
        self._write_requests(request_ids, starts_B, counts_B)
        if self._num_targets:
            self._write_policies(request_ids, starts_B, counts_B)

    def _set(self, request_id: str, steering: Steering) -> None:
        row = self._row_of.get(request_id)
        if row is None:
            row = self._row_of[request_id] = self._free.pop() if self._free else self._grow()
        self._slots_R2[row] = (steering.slot_prompt, steering.slot_output)
        self._coefficients_R2[row] = (steering.coefficient_prompt, steering.coefficient_output)
        self._prompt_R[row] = steering.num_prompt_tokens

    def _grow(self) -> int:
        old = len(self._prompt_R)
        new = max(16, 2 * old)
        self._slots_R2 = np.concatenate([self._slots_R2, np.zeros((new - old, 2), np.int64)])
        self._coefficients_R2 = np.concatenate(
            [self._coefficients_R2, np.zeros((new - old, 2), np.float32)]
        )
        self._prompt_R = np.concatenate([self._prompt_R, np.zeros(new - old, np.int64)])
        self._free.extend(range(new - 1, old, -1))
        return old

    def _write_requests(
        self, request_ids: Sequence[str], starts_B: IntArray, counts_B: IntArray
    ) -> None:
        lookup = self._row_of.get
        rows_B = np.fromiter(
            (lookup(each, NOBODY) for each in request_ids), np.int64, len(request_ids)
        )
        if not rows_B.any():
            if self._buffers.slot_N.dirty:
                self._buffers.slot_N.write(np.zeros(0, np.int64))
                self._buffers.coefficient_N.write(np.zeros(0, np.float32))
            return
        rows_T = np.repeat(rows_B, counts_B)
        clause_T = (positions(starts_B, counts_B) >= self._prompt_R[rows_T]).astype(np.int64)
        self._buffers.slot_N.write(self._slots_R2[rows_T, clause_T])
        self._buffers.coefficient_N.write(self._coefficients_R2[rows_T, clause_T])

    def _write_policies(
        self, request_ids: Sequence[str], starts_B: IntArray, counts_B: IntArray
    ) -> None:
        steered = [i for i, each in enumerate(request_ids) if each in self._spans]
        if not steered:
            if self._buffers.policy_NP.dirty:
                self._buffers.policy_NP.write(np.zeros((0, self._num_targets), np.float32))
            return
        strengths_TP = np.zeros((int(counts_B.sum()), self._num_targets), np.float32)
        firsts_B = np.cumsum(counts_B) - counts_B
        for i in steered:
            start, first = int(starts_B[i]), int(firsts_B[i])
            for span in self._spans[request_ids[i]].values():
                low = max(span.start, start) - start + first
                high = min(span.stop, start + int(counts_B[i])) - start + first
                if low < high:
                    column = strengths_TP[low:high, span.target]
                    stronger = abs(span.coefficient) > np.abs(column)
                    column[stronger] = span.coefficient
        self._buffers.policy_NP.write(strengths_TP)


def positions(starts_B: IntArray, counts_B: IntArray) -> IntArray:
    """Absolute position of each token of a step, in batch order: [T] int64."""
    firsts_B = np.cumsum(counts_B) - counts_B
    positions_T: IntArray = np.arange(int(counts_B.sum())) + np.repeat(
        starts_B - firsts_B, counts_B
    )
    return positions_T
