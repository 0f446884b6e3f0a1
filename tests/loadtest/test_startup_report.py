"""Starts add up in pairs, and few pairs or wide intervals decide nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from startup_report import Kind, Start, Who, line, summaries, table, write

NOISE = (0.4, -0.3, 0.1, -0.2, 0.0)


def start(who: Who, pair: int, ready_s: float, kind: Kind = "warm") -> Start:
    return Start(who, kind, pair, "plain first", ready_s, 0.4, 50.0, 2100, 3300, 3, 0.02)


def pairs(later_s: float, count: int = 5, kind: Kind = "warm") -> list[Start]:
    """Starts of plain vLLM after a minute, and ours so much later, with a little noise."""
    return [
        start(who, pair, 60.0 + (later_s + NOISE[pair] if who == "pilothouse" else 0.0), kind)
        for pair in range(count)
        for who in ("plain", "pilothouse")
    ]


@pytest.mark.parametrize(
    ("later_s", "standing"),
    [(-20.0, "met"), (1.0, "met"), (4.9, "not resolved"), (5.8, "missed"), (30.0, "missed")],
)
def test_both_bounds_have_to_hold(later_s: float, standing: str) -> None:
    [found] = summaries(pairs(later_s))
    assert found.standing == standing
    assert found.difference_s is not None
    assert found.difference_s.median == pytest.approx(later_s)
    assert found.difference_s.low < later_s < found.difference_s.high


def test_a_tenth_more_is_too_much_where_five_seconds_are_not() -> None:
    """Of 20 s a tenth is 2 s."""
    made = [
        start(who, pair, 20.0 + (3.5 + NOISE[pair] if who == "pilothouse" else 0.0))
        for pair in range(5)
        for who in ("plain", "pilothouse")
    ]
    assert summaries(made)[0].standing == "missed"


def test_under_five_pairs_nothing_is_met() -> None:
    [found] = summaries(pairs(-20.0, count=4))
    assert found.standing == "not resolved" and found.difference_s is not None


def test_one_pair_has_no_interval_and_half_a_pair_is_none() -> None:
    [found] = summaries(pairs(-20.0, count=1))
    assert (found.pairs, found.difference_s, found.standing) == (1, None, "not resolved")
    assert "no interval" in table(pairs(-20.0, count=1))
    assert summaries(pairs(0.0)[:1]) == []


def test_kinds_are_apart() -> None:
    found = summaries([*pairs(30.0, kind="cold"), *pairs(-9.0)])
    assert [(each.kind, each.standing) for each in found] == [("cold", "missed"), ("warm", "met")]


def test_the_table_has_median_and_spread_of_each_server() -> None:
    text = table(pairs(1.0))
    assert "| warm | plain | 5 | 60.0 [60.0, 60.0] |" in text
    assert "| warm | pilothouse | 5 | 61.0 [60.7, 61.4] |" in text
    assert text.endswith(": met")
    assert "60.0 s" in line(pairs(1.0)[0])


def test_the_record_has_every_start(tmp_path: Path) -> None:
    path = tmp_path / "startup.json"
    write(path, {"cores": 2}, {"flags": []}, pairs(1.0))
    read = json.loads(path.read_text())
    assert [each["ready_s"] for each in read["starts"]] == [each.ready_s for each in pairs(1.0)]
    assert read["summary"]["warm"]["standing"] == "met"
    assert read["environment"] == {"cores": 2}
    assert [each.name for each in tmp_path.iterdir()] == ["startup.json"]
