"""Thresholds from negatives alone, with a bound that holds with 95% confidence.

Shapes: N negatives. A signal fires where `value >= threshold`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pilothouse.artifacts.manifest import Threshold
from pilothouse.errors import ConfigError

CONFIDENCE = 0.95


def clopper_pearson_upper(exceedances: int, count: int, confidence: float = CONFIDENCE) -> float:
    """One-sided upper bound on a rate of which `exceedances` in `count` trials were seen.

    With none seen it is at most 1% from 299 trials on, 0.1% from 2,995, 0.05% from 5,990.

    Raises:
        ConfigError: no trials, or more exceedances than trials.
    """
    from scipy.stats import beta

    if not 0 <= exceedances <= count or count == 0:
        raise ConfigError(
            f"bound: got {exceedances} of {count}, want 0 <= exceedances <= count > 0"
        )
    if exceedances == count:
        return 1.0
    return float(beta.ppf(confidence, exceedances + 1, count - exceedances))


def negatives_needed(target_fpr: float) -> int:
    """The fewest negatives that can support a rate: with none of them firing the bound meets it.

    Raises:
        ConfigError: a rate outside (0, 1).
    """
    if not 0.0 < target_fpr < 1.0:
        raise ConfigError(f"bound: got target {target_fpr}, want a rate between 0 and 1")
    needed = max(1, math.floor(math.log(1 - CONFIDENCE) / math.log1p(-target_fpr)))
    while clopper_pearson_upper(0, needed) > target_fpr:
        needed += 1
    return needed


def allowed_exceedances(count: int, target_fpr: float) -> int | None:
    """The most negatives out of `count` that may fire with the bound still at or below the target.

    None where even zero are too many, that is where there are too few negatives.
    """
    if count == 0 or clopper_pearson_upper(0, count) > target_fpr:
        return None
    low, high = 0, math.ceil(target_fpr * count)
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_upper(middle, count) <= target_fpr:
            low = middle
        else:
            high = middle
    return low


def smallest_threshold(
    negatives_N: ArrayLike, target_fpr: float, length_bucket: int | None = None
) -> Threshold | None:
    """The smallest calibrated value at which the bound on the false positive rate is met.

    None where no value in [0, 1] meets it: too few negatives, or too many at 1 exactly.

    Raises:
        ConfigError: a value that is NaN or outside [0, 1], or a target outside (0, 1).
    """
    values = np.asarray(negatives_N, np.float64)
    if not 0.0 < target_fpr < 1.0 or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(
            f"threshold: got target {target_fpr} and values from {np.min(values, initial=1.0)} to "
            f"{np.max(values, initial=0.0)}; want a target in (0, 1) and values in [0, 1]"
        )
    allowed = allowed_exceedances(values.size, target_fpr)
    if allowed is None:
        return None
    kept = np.partition(values, values.size - 1 - allowed)[values.size - 1 - allowed]
    value = float(np.nextafter(kept, np.inf))
    if value > 1.0:
        return None
    exceedances = int((values >= value).sum())
    return Threshold(
        target_fpr=target_fpr,
        value=value,
        n=values.size,
        exceedances=exceedances,
        fpr_upper=clopper_pearson_upper(exceedances, values.size),
        length_bucket=length_bucket,
    )


def thresholds_of(
    negatives_N: ArrayLike,
    target_fprs: Sequence[float],
    lengths_N: ArrayLike | None = None,
    length_buckets: Sequence[int] = (),
) -> tuple[Threshold, ...]:
    """For each target the threshold for any length, and one for each length bucket.

    A bucket b takes the negatives with at most b scored tokens and more than the bucket before.
    Targets that cannot be met are left out.
    """
    values = np.asarray(negatives_N, np.float64)
    found = [smallest_threshold(values, each) for each in target_fprs]
    if length_buckets and lengths_N is None:
        raise ConfigError("threshold: got length buckets without lengths, want both or neither")
    lengths = np.zeros(values.size) if lengths_N is None else np.asarray(lengths_N)
    low = 0
    for bucket in sorted(length_buckets):
        inside = values[(lengths > low) & (lengths <= bucket)]
        found += [smallest_threshold(inside, each, bucket) for each in target_fprs]
        low = bucket
    return tuple(each for each in found if each is not None)
