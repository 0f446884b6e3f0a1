"""Oracle of the aggregators: whole runs, plain Python, straight from the definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pilothouse.types import Aggregate


def aggregated(aggregate: Aggregate, logits: Sequence[float]) -> float:
    """The value of a whole run; NaN for an empty one."""
    if not logits:
        return math.nan
    if aggregate.kind == "max":
        return max(logits)
    if aggregate.kind == "mean":
        return math.fsum(logits) / len(logits)
    if aggregate.kind == "last":
        return logits[-1]
    assert aggregate.half_life_tokens is not None
    alpha = 1.0 - 2.0 ** (-1.0 / aggregate.half_life_tokens)
    average = logits[0]
    averages = [average]
    for logit in logits[1:]:
        average = alpha * logit + (1.0 - alpha) * average
        averages.append(average)
    return max(averages) if aggregate.kind == "ema_max" else averages[-1]
