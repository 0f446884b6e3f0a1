"""Worker side of steering: what each live request gets, spread over the tokens of a step.

Shape suffixes: B requests of the step, T its tokens, R rows of the request table, G segments of a
request, M tokens of one request, P policy targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pilothouse.engine.scheduler.messages import PolicySpans, Steering, StepPlan
from pilothouse.engine.worker.buffers import TapBuffers
from pilothouse.types import FloatArray, IntArray

NOBODY = 0
NEVER = 1 << 62
FEW_SEGMENTS = 8
"""As many as are looked up for the whole batch at once; requests with more have a search each."""


class Segments(NamedTuple):
    """A request's edits by where they begin."""

    starts_G: IntArray
    slots_G: IntArray
    coefficients_G: FloatArray

    def followed_by(self, later: Segments) -> Segments:
        """Return both, one behind the other."""
        return Segments(
            np.concatenate((self.starts_G, later.starts_G)),
            np.concatenate((self.slots_G, later.slots_G)),
            np.concatenate((self.coefficients_G, later.coefficients_G)),
        )


class SteeringState:
    """Keeps what the scheduler said of each request until it ends; row 0 is `not steered`."""

    def __init__(self, buffers: TapBuffers, num_targets: int) -> None:
        self._buffers = buffers
        self._num_targets = num_targets
        self._row_of: dict[str, int] = {}
        self._free: list[int] = []
        self._starts_RG = np.full((1, FEW_SEGMENTS), NEVER, np.int64)
        self._slots_RG = np.zeros((1, FEW_SEGMENTS), np.int64)
        self._coefficients_RG = np.zeros((1, FEW_SEGMENTS), np.float32)
        self._crowded: dict[int, Segments] = {}
        self._spans: dict[str, dict[int, PolicySpans]] = {}
        """Of each request, by target."""

    def apply(self, plan: StepPlan, ended: set[str]) -> None:
        """Take in a step's news: uploads, new requests, policy spans, requests that ended."""
        for request_id in ended:
            row = self._row_of.pop(request_id, None)
            if row is not None:
                self._free.append(row)
                self._crowded.pop(row, None)
            self._spans.pop(request_id, None)
        for upload in plan.uploads:
            self._buffers.upload(upload)
        for request_id, steering in plan.steering.items():
            self._set(request_id, steering)
        for span in plan.spans:
            if span.request_id in ended:
                continue  # the rule fired at the request's last token
            targets = self._spans.setdefault(span.request_id, {})
            targets.setdefault(span.target, PolicySpans()).impose(span)

    def write(self, request_ids: Sequence[str], starts_B: IntArray, counts_B: IntArray) -> None:
        """Fill slot, coefficient and policy buffers for a step in batch order."""
        self._write_requests(request_ids, starts_B, counts_B)
        if self._num_targets:
            self._write_policies(request_ids, starts_B, counts_B)

    def _set(self, request_id: str, steering: Steering) -> None:
        row = self._row_of.get(request_id)
        if row is None:
            row = self._row_of[request_id] = self._free.pop() if self._free else self._grow()
        segments = _segments(steering)
        if steering.since:
            segments = self._before(row, steering.since).followed_by(segments)
        self._starts_RG[row], self._slots_RG[row], self._coefficients_RG[row] = NEVER, 0, 0.0
        self._crowded.pop(row, None)
        count = len(segments.starts_G)
        if count > FEW_SEGMENTS:
            self._crowded[row] = segments
            return
        self._starts_RG[row, :count] = segments.starts_G
        self._slots_RG[row, :count] = segments.slots_G
        self._coefficients_RG[row, :count] = segments.coefficients_G

    def _before(self, row: int, position: int) -> Segments:
        """Return what was said of positions before this one."""
        known = self._crowded.get(row) or Segments(
            self._starts_RG[row], self._slots_RG[row], self._coefficients_RG[row]
        )
        stop = int(np.searchsorted(known.starts_G, position))
        return Segments(
            known.starts_G[:stop].copy(),
            known.slots_G[:stop].copy(),
            known.coefficients_G[:stop].copy(),
        )

    def _grow(self) -> int:
        old = len(self._starts_RG)
        more = max(16, old)
        self._starts_RG = np.pad(self._starts_RG, ((0, more), (0, 0)), constant_values=NEVER)
        self._slots_RG = np.pad(self._slots_RG, ((0, more), (0, 0)))
        self._coefficients_RG = np.pad(self._coefficients_RG, ((0, more), (0, 0)))
        self._free.extend(range(old + more - 1, old, -1))
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
        positions_T = positions(starts_B, counts_B)
        segment_T = (positions_T[:, None] >= self._starts_RG[rows_T, 1:]).sum(axis=1)
        slots_T = self._slots_RG[rows_T, segment_T]
        coefficients_T = self._coefficients_RG[rows_T, segment_T]
        for row in self._crowded.keys() & set(rows_B.tolist()):
            segments, mine_T = self._crowded[row], rows_T == row
            segment_M = np.searchsorted(segments.starts_G, positions_T[mine_T], side="right") - 1
            slots_T[mine_T] = segments.slots_G[segment_M]
            coefficients_T[mine_T] = segments.coefficients_G[segment_M]
        self._buffers.slot_N.write(slots_T)
        self._buffers.coefficient_N.write(coefficients_T)

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
            stop = start + int(counts_B[i])
            for target, spans in self._spans[request_ids[i]].items():
                for span in spans.within(start, stop):
                    low = max(span.start, start) - start + first
                    high = min(span.stop, stop) - start + first
                    strengths_TP[low:high, target] = span.coefficient
        self._buffers.policy_NP.write(strengths_TP)


def positions(starts_B: IntArray, counts_B: IntArray) -> IntArray:
    """Absolute position of each token of a step, in batch order: [T] int64."""
    firsts_B = np.cumsum(counts_B) - counts_B
    positions_T: IntArray = np.arange(int(counts_B.sum())) + np.repeat(
        starts_B - firsts_B, counts_B
    )
    return positions_T


def _segments(steering: Steering) -> Segments:
    return Segments(
        np.array(steering.starts, np.int64),
        np.array(steering.slots, np.int64),
        np.array(steering.coefficients, np.float32),
    )
