"""Calibrated scores of single output tokens, for requests that asked for them.

Shape suffixes: T tokens of the step, Q probes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pilothouse.engine.plan.plan import Plan
from pilothouse.probes.aggregators import Floats
from pilothouse.record import TokenScores

STEEPEST = 700.0
UNKNOWN_TOKEN = -1


class TokenScorer:
    """Platt calibration of single tokens, of every probe of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._calibrations = [
            (name, facts.token_slope, facts.token_offset)
            for name, facts in plan.body.probes.items()
        ]

    def scores(
        self, logits_TQ: Floats, span: tuple[int, int, int], num_prompt_tokens: int
    ) -> Iterator[TokenScores]:
        """Of the output tokens among what a step newly folded of one request.

        Args:
            logits_TQ: of all tokens of the step.
            num_prompt_tokens: of the request.
            span: first token in the step, first position, count.
        """
        first, begin, count = span
        for i in range(max(0, num_prompt_tokens - begin), count):
            scores = self._calibrated(logits_TQ[first + i].tolist())
            yield TokenScores(begin + i - num_prompt_tokens, UNKNOWN_TOKEN, scores)

    def _calibrated(self, logits: list[float]) -> dict[str, float]:
        """Probe -> score; a probe that overflowed has none."""
        return {
            name: _sigmoid(slope * logit + offset)
            for (name, slope, offset), logit in zip(self._calibrations, logits, strict=True)
            if math.isfinite(logit)
        }


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(logit, -STEEPEST), STEEPEST)))
