"""The exported JSON Schema says what the loader says."""

from __future__ import annotations

import jsonschema
import pytest
import yaml

from pilothouse.errors import PolicyError
from pilothouse.policy.loader import parse_policy
from pilothouse.policy.schema import policy_json_schema
from tests.support.policies import policy_text, rule_text

GOOD = policy_text(
    rule_text(then="{action: block, as: error}"),
    rule_text(rule="s", phase="output", then="{action: steer, vector: hedge, scale: 2}"),
)


def accepts(text: str) -> bool:
    schema = policy_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text))


def test_the_schema_accepts_what_the_loader_accepts() -> None:
    parse_policy(GOOD)
    assert accepts(GOOD)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("kind: Policy", "kind: Polity"),
        ("severity: low", "severity: huge"),
        ("title: A sample", "titel: A sample"),
        ("name: sample", "name: Not Kebab"),
        ("phase: output", "phase: stream"),
        ("action: block", "action: judge"),
        ("scale: 2", 'scale: "2"'),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(before: str, after: str) -> None:
    text = GOOD.replace(before, after, 1)
    assert text != GOOD
    with pytest.raises(PolicyError):
        parse_policy(text)
    assert not accepts(text)
