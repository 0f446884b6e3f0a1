"""What the dashboard and the rules ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "pilothouse.json"
RULES = DEPLOY / "prometheus" / "rules" / "pilothouse.yml"

WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
STRING = re.compile(r'"[^"]*"')
NAMES_IN_STRING = re.compile(r'__name__=~"([^"]*)"')
SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
LABEL_NAME = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")
HISTOGRAM_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Query:
    """One PromQL expression and where it stands."""

    where: str
    expression: str


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text(encoding="utf-8")))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_queries() -> Iterator[Query]:
    """Yield every target of every panel."""
    for panel in panels():
        for target in panel["targets"]:
            yield Query(f"{panel['title']} {target['refId']}", target["expr"])


def variables() -> list[dict[str, Any]]:
    return [each for each in dashboard()["templating"]["list"] if each["type"] == "query"]


def variable_series() -> Iterator[tuple[str, str, str]]:
    """Yield (variable, metric, label) of every variable that is filled by label_values."""
    for variable in variables():
        match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
        assert match is not None, variable["definition"]
        yield variable["name"], match.group(1), match.group(2)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rule_queries() -> Iterator[Query]:
    """Yield every rule's expression."""
    for rule in rules():
        yield Query(rule.get("alert") or rule["record"], rule["expr"])


def metric_names(expression: str) -> set[str]:
    """Return our own and vLLM's metrics in an expression, without what rules recorded."""
    groups = NAMES_IN_STRING.findall(expression)
    named = {name.replace("[:_]", ":") for group in groups for name in group.split("|")}
    bare = set(WORD.findall(STRING.sub("", expression)))
    return {name for name in named | bare if name.startswith(("pilothouse_", "vllm:"))}


def labels_matched(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield (metric, label names) of every selector with a metric's name before it."""
    for name, body in SELECTOR.findall(expression):
        yield name, set(LABEL_NAME.findall(STRING.sub('""', body)))


def base_name(name: str) -> str:
    """Return the metric that a histogram's series belongs to."""
    for suffix in HISTOGRAM_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def filled(expression: str, *, seconds: int) -> str:
    """Return a panel's expression with Grafana's variables put in: everything, over `seconds`."""
    window = f"{seconds}s"
    text = expression.replace("$__rate_interval", window).replace("$__range", window)
    return re.sub(r"\$(instance|policy|probe)\b", ".*", text)
