"""Policies and readouts to test with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pilothouse.policy.loader import parse_policy
from pilothouse.policy.schema import Policy
from pilothouse.types import Aggregate, Scope, SignalSpec

MISUSE = "misuse: {probe: misuse, readout: prompt}"
DOUBT = "doubt: {probe: hallucination, readout: answer}"
BLOCK = "{action: block}"


def policy_text(
    *rules: str,
    signals: tuple[str, ...] = (MISUSE,),
    name: str = "sample",
    spec: tuple[str, ...] = (),
) -> str:
    """YAML of a policy; rules start on line 12 when there is one signal and no more of the spec.

    Lines: 1 apiVersion, 2 kind, 3 metadata, 4 to 8 its fields, 9 spec, then `spec`, then
    `signals:`, one line per signal, `rules:` and one line per rule.
    """
    lines = [
        "apiVersion: pilothouse/v1",
        "kind: Policy",
        "metadata:",
        f"  name: {name}",
        "  title: A sample",
        "  category: misuse",
        "  severity: low",
        "  description: For tests.",
        "spec:",
        *(f"  {line}" for line in spec),
        "  signals:",
        *(f"    {line}" for line in signals),
        "  rules:",
        *(f"    - {line}" for line in rules),
    ]
    return "\n".join(lines) + "\n"


def rule_text(
    when: str = "misuse >= 0.5",
    then: str = "{action: log}",
    phase: str = "prompt",
    rule: str = "r",
    more: str = "",
) -> str:
    """One rule on one line."""
    return f"{{id: {rule}, phase: {phase}, when: {yaml_text(when)}, then: {then}{more}}}"


def yaml_text(text: str) -> str:
    """The text as a quoted YAML scalar."""
    return yaml.safe_dump(text, default_style='"', width=10_000).strip()


def sample_policy(*rules: str, **kwargs: Any) -> Policy:
    """The policy of `policy_text`."""
    return parse_policy(policy_text(*(rules or (rule_text(),)), **kwargs))


def spec_of(key: str, scope: Scope, thresholds: Mapping[float, float] | None = None) -> SignalSpec:
    """A calibrated readout."""
    return SignalSpec(
        key,
        key.split("/")[0],
        scope,
        Aggregate("max"),
        1.0,
        0.0,
        calibrated=True,
        thresholds=tuple((thresholds or {}).items()),
    )


SPECS = {
    each.key: each
    for each in (
        spec_of("misuse/prompt", "prompt", {0.01: 0.7, 0.001: 0.9}),
        spec_of("hallucination/answer", "answer", {0.01: 0.6}),
        spec_of("hallucination/last", "output"),
    )
}
