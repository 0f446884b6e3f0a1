"""Ratios of paired runs, their 95% interval, and what a goal makes of it.

Two servers work in turn, so whatever the machine does to both at once cancels in a pair. Ratios are
taken on the log scale: a run twice as fast and one half as fast are equally far from 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

CONFIDENCE = 0.95
MIN_PAIRS = 2
MIN_PAIRS_TO_JUDGE = 5
TOLERANCE = 0.01
"""A goal is met when the interval excludes a ratio this much below it."""

Standing = Literal["met", "missed", "not resolved"]
Order = Literal["plain first", "pilothouse first"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One run of each server, one after the other, in tokens per second."""

    order: Order
    plain_tokens_per_s: float
    pilothouse_tokens_per_s: float

    @property
    def ratio(self) -> float:
        """Pilothouse over plain; 1 is no cost."""
        return self.pilothouse_tokens_per_s / self.plain_tokens_per_s


@dataclass(frozen=True, slots=True)
class Summary:
    """The median ratio, and the interval of the geometric mean ratio."""

    ratio_median: float
    ratio_low: float
    ratio_high: float
    pairs: int

    @property
    def half_width(self) -> float:
        """How far the interval reaches to either side."""
        return (self.ratio_high - self.ratio_low) / 2


def order_of(index: int) -> Order:
    """Who goes first in a pair: in turn, so that the runs read A B B A A B B A."""
    return "plain first" if index % 2 == 0 else "pilothouse first"


def summarise(pairs: Sequence[Pair]) -> Summary:
    """Median and paired Student interval over log ratios.

    Raises:
        ValueError: fewer than two pairs, or a throughput that is not positive.
    """
    if len(pairs) < MIN_PAIRS:
        raise ValueError(f"got {len(pairs)} pairs, want at least {MIN_PAIRS} for an interval")
    if any(min(each.plain_tokens_per_s, each.pilothouse_tokens_per_s) <= 0 for each in pairs):
        raise ValueError("a throughput is not positive: its run did not happen")
    return summarise_ratios([each.ratio for each in pairs])


def summarise_ratios(ratios: Sequence[float]) -> Summary:
    """Median and Student interval over log ratios.

    Raises:
        ValueError: fewer than two.
    """
    logs = [math.log(each) for each in ratios]
    low, high = _interval_of_mean(logs)
    return Summary(
        ratio_median=math.exp(statistics.median(logs)),
        ratio_low=math.exp(low),
        ratio_high=math.exp(high),
        pairs=len(logs),
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """The median difference within pairs, and the interval of the mean difference."""

    median: float
    low: float
    high: float
    pairs: int


def summarise_differences(differences: Sequence[float]) -> Difference:
    """Median and Student interval over differences within pairs.

    Raises:
        ValueError: fewer than two.
    """
    low, high = _interval_of_mean(differences)
    return Difference(statistics.median(differences), low, high, len(differences))


def _interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < MIN_PAIRS:
        raise ValueError(f"got {len(values)} values, want at least {MIN_PAIRS} for an interval")
    centre, spread = statistics.fmean(values), statistics.stdev(values)
    count = len(values)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)
    return centre - reach, centre + reach


def standing(summary: Summary, goal: float) -> Standing:
    """Met: the interval excludes `TOLERANCE` below the goal. Missed: not met, and below the goal.

    Fewer than `MIN_PAIRS_TO_JUDGE` pairs resolve nothing, however close they lie.
    """
    if summary.pairs < MIN_PAIRS_TO_JUDGE:
        return "not resolved"
    if summary.ratio_low > goal - TOLERANCE:
        return "met"
    if summary.ratio_high < goal:
        return "missed"
    return "not resolved"


def verdict_line(summary: Summary, goal: float) -> str:
    """`standing` in words, with the reach of the interval where nothing can be said."""
    found = standing(summary, goal)
    return f"not resolved at ±{summary.half_width:.3f}" if found == "not resolved" else found


@dataclass(frozen=True, slots=True)
class HostSummary:
    """Microseconds of ours per step: the median round, and the interval of the mean round."""

    us_median: float
    us_low: float
    us_high: float
    rounds: int


def summarise_host(rounds_us: Sequence[float]) -> HostSummary:
    """Median and Student interval over rounds.

    Raises:
        ValueError: fewer than two rounds.
    """
    if len(rounds_us) < MIN_PAIRS:
        raise ValueError(f"got {len(rounds_us)} rounds, want at least {MIN_PAIRS} for an interval")
    low, high = _interval_of_mean(rounds_us)
    return HostSummary(statistics.median(rounds_us), low, high, len(rounds_us))


def host_standing(summary: HostSummary, goal_us: float) -> Standing:
    """Met: the interval lies below the goal. Missed: it lies above."""
    if summary.rounds < MIN_PAIRS_TO_JUDGE:
        return "not resolved"
    if summary.us_high < goal_us:
        return "met"
    return "missed" if summary.us_low >= goal_us else "not resolved"


def host_verdict_line(summary: HostSummary, goal_us: float) -> str:
    """`host_standing` in words, with the reach of the interval where nothing can be said."""
    found = host_standing(summary, goal_us)
    reach = (summary.us_high - summary.us_low) / 2
    return f"not resolved at ±{reach:.0f} us" if found == "not resolved" else found
