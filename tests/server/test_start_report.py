"""The block of the start: a line for each kind of thing, of bounded length, doors by name."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pilothouse.artifacts.catalog import Catalog
from pilothouse.config import parse_config
from pilothouse.engine.plan.build import resolve_plan
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.engine.vllm.version import TESTED, vllm_version
from pilothouse.server.routes import RouteEntry, RouteTable
from pilothouse.server.start_report import MOST_NAMES, door_line, log_start, start_lines

NOTHING = Catalog()
FACTS = ModelFacts(model_id="tiny\n\x1b[2J", num_layers=9, d_model=64)


def plan_of(**sections: object) -> Plan:
    config = parse_config({"version": 1} | sections, folder=Path(), origin="test")
    return resolve_plan(config, NOTHING, (), FACTS)


def line(lines: list[str], head: str) -> str:
    [found] = [each for each in lines if each.startswith(head)]
    return found


def route(path: str, table: RouteTable) -> RouteEntry:
    verdict = table.judge("OPTIONS", path)
    return RouteEntry(path, ("POST",), verdict.kind, verdict.reason, table.known(path))


def test_nothing_loaded_is_said_too() -> None:
    lines = list(start_lines(plan_of()))
    assert lines[1:7] == [
        "vectors: 0",
        "SAEs: 0",
        "probes: 0",
        "profiles: 0",
        "policies enforced: 0",
        "policies in shadow: 0",
    ]
    assert line(lines, "taps") == "taps: 0; tables 0.0 MiB of 1024 for 64 programs"
    assert not [each for each in lines if each.startswith("doors")]


def test_the_version_of_vllm_is_told_with_those_that_were_tested() -> None:
    told = line(list(start_lines(plan_of())), "vLLM")
    assert told == f"vLLM: {vllm_version()} (tested: {', '.join(f'{each}.x' for each in TESTED)})"


def test_taps_are_told_by_site_with_runs_of_layers_and_their_memory() -> None:
    plan = plan_of(taps={"resid_post": [1, 2, 3, 7], "mlp_out": [4]})
    told = line(list(start_lines(plan)), "taps")
    assert "taps: 5 (" in told and "resid_post of layers 1-3, 7" in told
    assert "mlp_out of layers 4" in told and "tables 0.0 MiB" not in told


def test_grants_that_every_client_has_are_told() -> None:
    plan = plan_of(auth={"client_steering": True})
    assert line(list(start_lines(plan)), "grants").endswith(": 1 (client_steering)")


def test_doors_are_counted_and_those_worth_knowing_named() -> None:
    table = RouteTable(["/server_info"])
    paths = ["/v1/completions", "/health", "/server_info", "/v1/messages", "/sleep", "/new"]
    lines = list(start_lines(plan_of(), [route(path, table) for path in paths]))
    assert line(lines, "doors governed") == "doors governed: 1 (/v1/completions)"
    assert "no model: 2, and 0 of" in line(lines, "doors open")
    assert line(lines, "doors open").endswith("opened by gate.allow: 1 (/server_info)")
    assert line(lines, "doors denied") == (
        "doors denied: 3; that would run the model: 1 (/v1/messages); that nothing is known of: "
        "1 (/new)"
    )


def test_a_door_that_stays_open_is_told_with_rules_reason_and_remedy() -> None:
    names = [f"one/r{number}" for number in range(MOST_NAMES + 1)]
    door = {"door": "metrics", "rules": names, "reason": "it tells", "remedy": "hide it"}
    told = door_line(door)
    assert told.startswith(f"door left open, metrics: past: {MOST_NAMES + 1} (one/r0, ")
    assert told.endswith(" and 1 more): it tells; hide it") and "one/r12" not in told


def test_many_names_are_counted_and_not_all_printed() -> None:
    table = RouteTable()
    routes = [route(f"/new/{number}", table) for number in range(100)]
    told = line(list(start_lines(plan_of(), routes)), "doors denied")
    assert told.count("/new/") == MOST_NAMES and "and 88 more" in told


def test_the_block_is_one_record_whose_lines_are_marked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pilothouse"):
        log_start(plan_of())
    [record] = caplog.records
    first, *others = record.getMessage().split("\n")
    assert first.endswith(f"runs revision {plan_of().revision}") and "\x1b" not in str(others)
    assert others and all(each.startswith("  | ") for each in others)
