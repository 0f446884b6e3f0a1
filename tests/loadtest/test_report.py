"""What a run leaves behind holds the pairs it came from."""

from __future__ import annotations

import json
from pathlib import Path

from paired import Pair, order_of, summarise, summarise_host
from report import HostResult, Result, bench_json, table, write_bench_json, write_record
from scenario import ALL, HOST_STEP

PAIRS = tuple(
    Pair(order_of(i), 800.0, 800.0 * ratio)
    for i, ratio in enumerate((0.995, 1.003, 0.998, 1.001, 0.997))
)
RESULT = Result(ALL["idle"], PAIRS, summarise(PAIRS), {"load_average": 0.4})

TOTALS_US = (650.0, 660.0, 655.0, 652.0, 658.0)
ROUNDS = tuple({"total_us": each, "worker_us": 40.0} for each in TOTALS_US)
HOST = HostResult(HOST_STEP, ROUNDS, summarise_host(TOTALS_US))


def test_host_work_stands_in_the_same_files_in_its_own_unit(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_bench_json(path, [RESULT, HOST])
    read = json.loads(path.read_text())
    assert set(read) == {"idle", "host_step"}
    assert set(read["host_step"]) == {"us_median", "us_low", "us_high", "rounds"}
    assert read["host_step"]["us_median"] == 655.0
    told = table([RESULT, HOST])
    assert "| host_step | < 1000 | 655 |" in told and "| idle | 0.995 |" in told
    assert "idle" not in table([HOST])
    about = {"date": "2026-11-21T03:00:00+00:00", "commit": "abc"}
    for results in ([RESULT, HOST], [HOST]):
        page = write_record(tmp_path, "cpu2", about, {}, results)
        raw = json.loads(page.with_suffix(".json").read_text())
        assert raw["cases"]["host_step"]["raw_rounds"] == list(ROUNDS)
        assert ("## Conditions" in page.read_text()) == (RESULT in results)


def test_bench_json_has_the_four_figures_of_each_case(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_bench_json(path, [RESULT])
    read = json.loads(path.read_text())
    assert read == bench_json([RESULT])
    assert set(read) == {"idle"}
    assert set(read["idle"]) == {"ratio_median", "ratio_low", "ratio_high", "pairs"}
    assert read["idle"]["ratio_median"] == 0.998
    assert read["idle"]["pairs"] == 5


def test_the_table_says_goal_interval_and_standing() -> None:
    row = table([RESULT]).splitlines()[-1]
    assert "| idle | 0.995 | 0.9980 |" in row
    assert "| met |" in row
    assert "| 800 |" in row


def test_a_case_without_a_goal_is_for_information() -> None:
    assert "for information" in table([Result(ALL["control"], PAIRS, RESULT.summary, {})])


def test_the_record_keeps_every_raw_pair_in_order(tmp_path: Path) -> None:
    about = {"date": "2026-11-21T03:00:00+00:00", "commit": "abc"}
    page = write_record(tmp_path, "cpu2", about, {"flags": ["--dtype", "float32"]}, [RESULT])
    assert page.name == "overhead_cpu2_202611.md"
    raw = json.loads(page.with_suffix(".json").read_text())
    kept = raw["cases"]["idle"]["raw_pairs"]
    assert [each["pilothouse_tokens_per_s"] for each in kept] == [
        pair.pilothouse_tokens_per_s for pair in PAIRS
    ]
    assert [each["order"] for each in kept][:3] == [
        "plain first",
        "pilothouse first",
        "plain first",
    ]
    assert raw["environment"]["commit"] == "abc"
    assert "--dtype float32" in page.read_text()
