"""What deploy/ says agrees with itself and with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilothouse.telemetry.metrics import METRICS
from tests.support.promql import (
    DASHBOARD,
    DEPLOY,
    Query,
    base_name,
    dashboard,
    labels_matched,
    metric_names,
    panel_queries,
    panels,
    rule_queries,
    rules,
    variable_series,
)

CHECKOUT = DEPLOY.parent
SCRAPE_LABELS = {"job", "instance", "le", "__name__"}
QUERIES = [*panel_queries(), *rule_queries()]
OURS = [*QUERIES, *(Query(name, metric) for name, metric, _ in variable_series())]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8")))


def dockerfile() -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("query", OURS, ids=lambda query: query.where)
def test_every_metric_asked_for_exists(query: Query) -> None:
    names = {name for name in metric_names(query.expression) if name.startswith("pilothouse_")}
    for name in names:
        spec = METRICS.get(name) or METRICS.get(base_name(name))
        assert spec is not None, f"{query.where} asks for {name}, which no process exports"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_every_label_matched_belongs_to_its_metric(query: Query) -> None:
    for name, labels in labels_matched(query.expression):
        if not name.startswith("pilothouse_"):
            continue
        spec = METRICS.get(name) or METRICS[base_name(name)]
        assert labels <= {*spec.labels, *SCRAPE_LABELS}, f"{query.where}: {name}"


@pytest.mark.parametrize(("name", "metric", "label"), list(variable_series()))
def test_every_variable_takes_a_label_its_metric_has(name: str, metric: str, label: str) -> None:
    spec = METRICS.get(metric) or METRICS[base_name(metric)]
    assert label in {*spec.labels, "instance"}, name


def test_the_name_finder_sees_plain_matched_and_listed_names() -> None:
    text = 'rate(pilothouse_a_total{x="pilothouse_no"}[5m]) + vllm:b + p:pilothouse_c:d'
    assert metric_names(text) == {"pilothouse_a_total", "vllm:b"}
    assert metric_names('{__name__=~"pilothouse_a|pilothouse_b"}') == {
        "pilothouse_a",
        "pilothouse_b",
    }
    assert metric_names('{__name__=~"vllm[:_]b"}') == {"vllm:b"}
    assert list(labels_matched('a{x=~"b=c", y!="z"}')) == [("a", {"x", "y"})]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_ask_the_chosen_source_for_the_chosen_instance() -> None:
    for panel in panels():
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
            assert 'instance=~"$instance"' in target["expr"], panel["title"]


def test_the_dashboard_shows_what_the_design_asks_for() -> None:
    asked = {
        base_name(name) for query in panel_queries() for name in metric_names(query.expression)
    }
    assert {
        "pilothouse_requests_total",
        "pilothouse_decisions_total",
        "pilothouse_probe_score",
        "pilothouse_steered_tokens_total",
        "pilothouse_policy_seconds",
        "pilothouse_hold_back_seconds",
        "pilothouse_program_waits_total",
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
    } <= asked


def test_every_alert_has_a_section_in_the_runbook() -> None:
    text = (CHECKOUT / "docs" / "guides" / "runbook.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (\w+)$", text, flags=re.MULTILINE))
    assert {alert["alert"] for alert in alerts()} == sections
    for alert in alerts():
        section = f"docs/guides/runbook.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook_url"] == section
        assert alert["labels"]["severity"] in {"critical", "warning"}


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    seen: dict[str, set[bool]] = {alert["alert"]: set() for alert in alerts()}
    for path in sorted((DEPLOY / "prometheus" / "tests").glob("*.yml")):
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in case["alert_rule_test"]:
                seen[check["alertname"]].add(bool(check["exp_alerts"]))
    assert {name: {True, False} for name in seen} == seen


def test_compose_publishes_on_loopback_only() -> None:
    for name, service in compose()["services"].items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), name
        assert "network_mode" not in service, name


def test_compose_gives_no_service_more_rights_than_it_needs() -> None:
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged") and "user" not in service, name


def test_grafana_has_no_default_password() -> None:
    environment = compose()["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"


def test_compose_pins_its_images_and_mounts_what_exists() -> None:
    volumes = compose()["volumes"]
    for name, service in compose()["services"].items():
        if "build" in service:
            build = service["build"]
            assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or (DEPLOY / source).exists(), volume


def test_compose_serves_files_that_exist() -> None:
    command = compose()["services"]["pilothouse"]["command"]
    assert command[0] == "serve"
    assert (CHECKOUT / command[1]).is_dir()
    (config,) = [each for each in command if each.startswith("--pilothouse-config=")]
    assert (CHECKOUT / config.partition("=")[2]).is_file()


def test_prometheus_and_grafana_find_each_other_and_the_server() -> None:
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = scrape["scrape_configs"]
    services = compose()["services"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in services and f"--port={port}" in services[host]["command"]
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((provisioning / "dashboards" / "pilothouse.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    mounts = [each.split(":") for each in services["grafana"]["volumes"]]
    (lent,) = [mount[0] for mount in mounts if mount[1] == folder]
    assert (DEPLOY / lent / DASHBOARD.name).is_file()


def test_the_image_does_not_run_as_root_and_says_when_it_is_ready() -> None:
    lines = dockerfile()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    (user,) = [line for line in last_stage if line.startswith("USER")]
    assert int(user.split()[1].split(":")[0]) > 0
    (health,) = [line for line in last_stage if line.startswith("HEALTHCHECK")]
    assert "/pilothouse/v1/ready" in health
    assert not any("latest" in line for line in lines if line.startswith("FROM"))


def test_the_image_copies_what_exists() -> None:
    for line in dockerfile():
        words = line.split()
        if words[0] == "COPY" and not words[1].startswith("--"):
            missing = [each for each in words[1:-1] if not Path(CHECKOUT, each).exists()]
            assert not missing, line
