"""Prometheus' own checker accepts rules and config, and alerts do what their tests say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.promql import DEPLOY, RULES

pytestmark = pytest.mark.prometheus
BORN = "max_over_time(pilothouse_"
NEVER = "max_over_time(pilothouse_config_fingerprint{"
NOW = "(pilothouse_decisions_total"
UNJUDGED = 'result=~"bypassed|error_blocked"'
RELOADS = 'result=~"refused|failed"'
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120
    )


def test_the_config_and_the_rules_are_valid(promtool: str) -> None:
    done = run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool: str, path: Path) -> None:
    done = run(promtool, "test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("intact", "broken", "caught_by"),
    [
        ("ratio_rate15m > 0.05", "ratio_rate15m > 0.5", "verdicts"),
        (") >= 5", ") >= 0", "verdicts"),
        ("ratio_rate15m > 3 * (", "ratio_rate15m > 30 * (", "verdicts"),
        ("ratio_rate15m > 3 * (", "ratio_rate15m > 0 * (", "verdicts"),
        ("[1h] offset 1w", "[1h] offset 30w", "history"),
        ('increase15m{result="bypassed"}', 'increase15m{result="allowed"}', "guard"),
        ('increase15m{result="error_blocked"}', 'increase15m{result="bypassed"}', "guard"),
        # A rate or increase alone, a `for`, and what a vanished series had: each loses one event.
        (f"{BORN}decisions_total{{{UNJUDGED}}}[15m])", f"{NEVER}{UNJUDGED}}}[15m])", "events"),
        (f"{BORN}reloads_total{{{RELOADS}}}[15m])", f"{NEVER}{RELOADS}}}[15m])", "events"),
        (f"{BORN}decisions_total{{{UNJUDGED}}}[15m])", f"{NOW}{{{UNJUDGED}}})", "events"),
        (f"or increase(pilothouse_decisions_total{{{UNJUDGED}}}[15m])", "", "events"),
        (
            f"increase(pilothouse_decisions_total{{{UNJUDGED}}}[15m])",
            f"increase(pilothouse_decisions_total{{{UNJUDGED}}}[5m])",
            "events",
        ),
        ('="error_blocked"}) > 0\n', '="error_blocked"}) > 0\n        for: 5m\n', "events"),
        (
            "sum by (job, policy, rule) (series",
            "sum by (job, instance, policy, rule) (series",
            "events",
        ),
        (f"unless pilothouse_decisions_total{{{UNJUDGED}}} offset 15m", "", "events"),
        (f"{BORN}unscored_tokens_total{{reason", f"{NEVER}reason", "guard"),
        ("ratio15m > 0.01\n        for: 10m", "ratio15m > 0\n        for: 10m", "guard"),
        ("count by (job) (count_values by (job)", "count (count_values by (job)", "config"),
        ('_tokens_total{reason!="length_end"}', "_tokens_total", "guard"),
    ],
)
def test_a_broken_rule_is_caught(
    promtool: str, tmp_path: Path, intact: str, broken: str, caught_by: str
) -> None:
    (tmp_path / "rules").mkdir()
    text = RULES.read_text(encoding="utf-8")
    assert intact in text
    (tmp_path / "rules" / RULES.name).write_text(text.replace(intact, broken))
    (tmp_path / "tests").mkdir()
    case = shutil.copy(DEPLOY / "prometheus" / "tests" / f"{caught_by}.yml", tmp_path / "tests")
    assert run(promtool, "test", "rules", case).returncode != 0
