"""Ratios of paired runs: the interval covers, pairs cancel what both share, goals are judged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paired import (
    TOLERANCE,
    HostSummary,
    Pair,
    Summary,
    host_standing,
    host_verdict_line,
    order_of,
    standing,
    summarise,
    summarise_host,
    verdict_line,
)


def pairs_of(ratios: list[float], plain: float = 800.0) -> list[Pair]:
    return [Pair(order_of(i), plain, plain * ratio) for i, ratio in enumerate(ratios)]


def test_the_order_alternates_so_that_runs_read_a_b_b_a() -> None:
    turns = []
    for index in range(4):
        first = order_of(index) == "plain first"
        turns += ["A", "B"] if first else ["B", "A"]
    assert "".join(turns) == "ABBAABBA"


def test_the_interval_of_a_worked_example() -> None:
    # Log ratios -0.02, -0.01, 0, 0.01, 0.02: sd 0.0158114, t(0.975, 4) = 2.776445.
    reach = 2.776445 * 0.0158114 / math.sqrt(5)
    summary = summarise(pairs_of([math.exp(each) for each in (-0.02, 0.01, 0.0, 0.02, -0.01)]))
    assert summary.ratio_median == pytest.approx(1.0)
    assert summary.ratio_low == pytest.approx(math.exp(-reach), rel=1e-5)
    assert summary.ratio_high == pytest.approx(math.exp(reach), rel=1e-5)
    assert summary.pairs == 5


def test_what_slows_both_runs_of_a_pair_cancels() -> None:
    speeds = (900.0, 300.0, 650.0, 120.0, 800.0)
    summary = summarise([Pair(order_of(i), each, 0.97 * each) for i, each in enumerate(speeds)])
    assert summary.ratio_median == pytest.approx(0.97)
    assert summary.half_width == pytest.approx(0.0, abs=1e-9)


def test_swapping_the_servers_inverts_the_ratio() -> None:
    forward = [Pair("plain first", a, b) for a, b in ((8.0, 7.0), (9.0, 8.5), (7.0, 7.2))]
    backward = [
        Pair("plain first", each.pilothouse_tokens_per_s, each.plain_tokens_per_s)
        for each in forward
    ]
    one, other = summarise(forward), summarise(backward)
    assert one.ratio_median == pytest.approx(1 / other.ratio_median)
    assert one.ratio_low == pytest.approx(1 / other.ratio_high)


@pytest.mark.parametrize("count", [5, 20])
def test_the_interval_covers_the_true_ratio_about_95_times_in_100(count: int) -> None:
    draw = np.random.default_rng(count)
    truth, trials = 0.985, 2000
    covered = 0
    for _ in range(trials):
        summary = summarise(pairs_of(list(truth * np.exp(draw.normal(0, 0.03, count)))))
        covered += summary.ratio_low <= truth <= summary.ratio_high
    # Four standard errors of a share of 0.95 over 2,000 trials.
    assert abs(covered / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("ratios", [[], [0.99]])
def test_too_few_pairs_give_no_interval(ratios: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        summarise(pairs_of(ratios))


def test_a_run_that_did_not_happen_is_no_ratio() -> None:
    with pytest.raises(ValueError, match="not positive"):
        summarise([Pair("plain first", 800.0, 0.0), *pairs_of([1.0, 1.0])])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.985, 0.995, "met"),  # below the goal, but the interval excludes 0.01 worse
        (0.981, 0.988, "met"),
        (0.975, 0.985, "missed"),
        (0.90, 0.95, "missed"),
        (0.97, 1.02, "not resolved"),
        (0.98, 0.99, "not resolved"),  # its ends touch both: nothing is excluded
    ],
)
def test_a_goal_of_099_is_judged_by_the_interval(low: float, high: float, expected: str) -> None:
    assert standing(Summary((low + high) / 2, low, high, 12), 0.99) == expected


def test_what_is_not_resolved_says_how_far_the_interval_reaches() -> None:
    assert verdict_line(Summary(0.99, 0.95, 1.03, 5), 0.99) == "not resolved at ±0.040"
    assert verdict_line(Summary(1.0, 0.995, 1.005, 5), 0.99) == "met"


def test_a_cost_of_twice_the_tolerance_is_never_met_by_precise_pairs() -> None:
    summary = summarise(pairs_of([0.99 - 2 * TOLERANCE] * 3 + [0.9701, 0.9699]))
    assert standing(summary, 0.99) == "missed"


def test_fewer_than_five_pairs_resolve_nothing_however_close_they_lie() -> None:
    few = summarise(pairs_of([1.0001, 1.0, 0.9999, 1.0]))
    assert few.half_width < 0.001
    assert standing(few, 0.99) == "not resolved"


def test_the_interval_of_host_work_in_a_worked_example() -> None:
    # 680, 690, 700, 710, 720: sd 15.8114, t(0.975, 4) = 2.776445.
    reach = 2.776445 * 15.8114 / math.sqrt(5)
    summary = summarise_host([700.0, 680.0, 720.0, 690.0, 710.0])
    assert summary.us_median == 700.0
    assert summary.us_low == pytest.approx(700 - reach, rel=1e-5)
    assert summary.us_high == pytest.approx(700 + reach, rel=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        summarise_host([700.0])


@pytest.mark.parametrize(
    ("low", "high", "rounds", "expected"),
    [
        (600.0, 999.0, 10, "met"),
        (900.0, 1000.0, 10, "not resolved"),
        (999.0, 1200.0, 10, "not resolved"),
        (1000.0, 1200.0, 10, "missed"),
        (600.0, 700.0, 4, "not resolved"),
    ],
)
def test_host_work_is_under_the_goal_only_where_its_whole_interval_is(
    low: float, high: float, rounds: int, expected: str
) -> None:
    summary = HostSummary((low + high) / 2, low, high, rounds)
    assert host_standing(summary, 1000.0) == expected
    told = f"not resolved at ±{(high - low) / 2:.0f} us"
    line = host_verdict_line(summary, 1000.0)
    assert line == (told if expected == "not resolved" else expected)
