"""Counting: each thing once, labels from closed sets, names that vLLM leaves alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pilothouse.record import Decision, Record
from pilothouse.server.app import _label_sources
from pilothouse.telemetry.metrics import METRICS, SCORE_BUCKETS, LabelSources, Metrics
from tests.support.servers.app_parts import tiny_plan
from tests.support.servers.server_process import sum_of
from tests.support.servers.tiny_deployment import SERVED_NAME


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(_label_sources(tiny_plan(), (SERVED_NAME,)), registry)


def count(registry: CollectorRegistry, name: str, /, **labels: str) -> float:
    return sum_of(generate_latest(registry).decode(), f"pilothouse_{name}", **labels)


def closing(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "values": {"vary/output": 0.7},
        "decisions": [Decision("watch", "would", "prompt", "shadow", "block", "would_block")],
        "scored_tokens": {"vary": 12},
        "unscored_tokens": {"prefix_cache": 3},
        "steered_tokens": {"nudge": 5},
        "closing": True,
    }
    return Record("d", "r", **(fields | changes))


def test_every_name_has_our_prefix_and_not_vllms() -> None:
    for name, spec in METRICS.items():
        assert re.fullmatch(r"pilothouse_[a-z_]+", name) and "vllm" not in name
        assert name.endswith("_total") is (spec.kind == "counter")


def test_score_buckets_are_even_in_log_odds_and_end_at_one() -> None:
    assert list(SCORE_BUCKETS) == sorted(SCORE_BUCKETS) and SCORE_BUCKETS[-1] == 1.0
    assert len(SCORE_BUCKETS) <= 15
    for low, high in zip(SCORE_BUCKETS, reversed(SCORE_BUCKETS[:-1]), strict=False):
        assert low == pytest.approx(1 - high, abs=1e-3)


def test_a_closing_record_counts_everything_once(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.record(closing(closing=False))
    metrics.record(closing(waited=True))
    would = {"policy": "watch", "rule": "would", "mode": "shadow", "result": "would_block"}
    assert count(registry, "decisions_total", **would) == 1
    assert count(registry, "probe_score_count", probe="vary", readout="output") == 1
    assert count(registry, "probe_tokens_total", probe="vary") == 12
    assert count(registry, "unscored_tokens_total", reason="prefix_cache") == 3
    assert count(registry, "steered_tokens_total", name="nudge") == 5
    assert count(registry, "program_waits_total") == 1


def test_the_gauge_of_programs_is_what_was_told_last(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    assert count(registry, "programs_active") == 0
    for told in (3, 1, 0):
        metrics.programs(told)
        assert count(registry, "programs_active") == told


def test_requests_are_counted_by_what_became_of_them(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.request("small:plain", "chat", "", "steer")
    metrics.request("small", "completions", "", "block")
    metrics.request(None, "other", "", "deny")
    assert count(registry, "requests_total") == 3
    assert count(registry, "requests_total", model_name="small:plain", action="steer") == 1
    assert count(registry, "requests_total", endpoint="other", model_name="other") == 1
    assert count(registry, "label_overflow_total") == 0


def test_names_of_clients_cannot_make_series(metrics: Metrics, registry: CollectorRegistry) -> None:
    for i in range(500):
        metrics.request(f"model-{i}", "chat", f"tenant-{i}", "reject")
        metrics.record(closing(values={f"made/up-{i}": 0.5}, steered_tokens={f"v{i}": 1}))
    lines = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    names = (line for line in lines if not line.startswith("pilothouse_probe_score"))
    assert sum(1 for _ in names) < 400
    assert count(registry, "label_overflow_total", label="model_name") == 500
    assert count(registry, "requests_total", tenant_class="other") == 500


def test_a_tenants_class_is_the_pattern_a_policy_has_for_it(registry: CollectorRegistry) -> None:
    sources = LabelSources(model_names=["m"], tenants=["*", "acme-*", "*"])
    metrics = Metrics(sources, registry)
    for tenant in ("acme-1", "acme-2", "zeta", ""):
        metrics.request("m", "chat", tenant, "allow")
    for label, expected in (("acme-*", 2), ("other", 1), ("none", 1)):
        assert count(registry, "requests_total", tenant_class=label) == expected


def test_every_rule_has_its_zeros_from_the_start(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    del metrics
    text = generate_latest(registry).decode()
    assert 'policy="prompt-refusal",result="error_blocked"' in text
    assert 'policy="steers",result="bypassed"' in text
    assert 'reason="prefix_cache"' in text


def test_the_fingerprint_is_the_revision(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.loaded("18c46e38fb98")
    assert count(registry, "config_fingerprint") == int("18c46e38fb98", 16)
    assert count(registry, "config_loaded_timestamp_seconds") > 1.7e9
