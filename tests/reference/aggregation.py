"""Oracle of the aggregators: whole runs, plain Python, straight from the definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pilothouse.types import Aggregate


def aggregated(aggregate: Aggregate, logits: Sequence[float]) -> float:
    """The value of a whole run; NaN for an empty one."""
    if not logits:
        return math.nan
    kind = aggregate.kind
    if kind == "max":
        return max(logits)
    if kind == "mean":
        return math.fsum(logits) / len(logits)
    if kind == "last":
        return logits[-1]
    if kind in ("ema_max", "ema_last"):
        averages = _averages(aggregate, logits)
        return max(averages) if kind == "ema_max" else averages[-1]
    if kind == "top_k_mean":
        assert aggregate.k_tokens is not None
        largest = sorted(logits)[-aggregate.k_tokens :]
        return math.fsum(largest) / len(largest)
    if kind in ("sliding_max", "sliding_mean"):
        return _sliding(aggregate, logits)
    if kind in ("softmax_mean", "log_sum_exp"):
        return _exponential(aggregate, logits)
    if kind == "noisy_or":
        # 1 - P is exp(-total), so the logit is ln((1 - exp(-total)) / exp(-total)).
        total = math.fsum(math.log1p(math.exp(-abs(each))) + max(each, 0.0) for each in logits)
        return total + math.log(-math.expm1(-total))
    if kind in ("cusum_max", "cusum_last"):
        sums = _cumulative(aggregate, logits)
        return max(sums) if kind == "cusum_max" else sums[-1]
    assert kind == "k_of_n"
    return _alarm(aggregate, logits)


def _averages(aggregate: Aggregate, logits: Sequence[float]) -> list[float]:
    assert aggregate.half_life_tokens is not None
    alpha = 1.0 - 2.0 ** (-1.0 / aggregate.half_life_tokens)
    average = logits[0]
    averages = [average]
    for logit in logits[1:]:
        average = alpha * logit + (1.0 - alpha) * average
        averages.append(average)
    return averages


def _sliding(aggregate: Aggregate, logits: Sequence[float]) -> float:
    size = aggregate.window_tokens
    assert size is not None
    if len(logits) < size:
        return math.fsum(logits) / len(logits)
    starts = range(len(logits) - size + 1)
    means = [math.fsum(logits[start : start + size]) / size for start in starts]
    return max(means) if aggregate.kind == "sliding_max" else means[-1]


def _exponential(aggregate: Aggregate, logits: Sequence[float]) -> float:
    assert aggregate.temperature is not None
    top = max(logits)
    weights = [math.exp((each - top) / aggregate.temperature) for each in logits]
    total = math.fsum(weights)
    if aggregate.kind == "log_sum_exp":
        return top + aggregate.temperature * math.log(total)
    return math.fsum(w * each for w, each in zip(weights, logits, strict=True)) / total


def _cumulative(aggregate: Aggregate, logits: Sequence[float]) -> list[float]:
    assert aggregate.reference_logit is not None
    assert aggregate.drift_logits is not None
    total, totals = 0.0, []
    for logit in logits:
        total = max(0.0, total + (logit - aggregate.reference_logit) - aggregate.drift_logits)
        totals.append(total)
    return totals


def _alarm(aggregate: Aggregate, logits: Sequence[float]) -> float:
    needed, size = aggregate.k_tokens, aggregate.window_tokens
    on_logit, off_logit = aggregate.on_logit, aggregate.off_logit
    assert needed is not None
    assert size is not None
    assert on_logit is not None
    assert off_logit is not None
    is_on, counted = False, 0
    for end in range(1, len(logits) + 1):
        window = logits[max(0, end - size) : end]
        counted = sum(each >= (off_logit if is_on else on_logit) for each in window)
        is_on = counted >= needed
        counted = sum(each >= (off_logit if is_on else on_logit) for each in window)
    return counted - needed + 0.5
