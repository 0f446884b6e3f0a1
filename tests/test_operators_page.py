"""docs/operators.md: every operator stands there, and every example can be asked of the demo."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from pilothouse.edit.operators import OPERATORS
from pilothouse.term import Positions, SteerTerm
from pilothouse.types import Operator
from tests.support.server_process import ServerProcess

PAGE = (Path(__file__).parent.parent / "docs" / "operators.md").read_text(encoding="utf-8")


def examples() -> Iterator[dict[str, Any]]:
    """The terms in the page's JSON blocks, one a line."""
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL):
        yield from (json.loads(line) for line in block.splitlines())


def test_the_page_has_a_row_for_every_operator() -> None:
    assert set(OPERATORS) == set(get_args(Operator))
    assert [name for name in OPERATORS if f"| `{name}` | " not in PAGE] == []


def test_the_page_names_every_way_of_naming_positions() -> None:
    assert [name for name in Positions.model_fields if f"{name}:" not in PAGE] == []


def test_the_examples_show_every_operator_that_a_vector_can_have() -> None:
    shown = {SteerTerm.model_validate(each).op or "add" for each in examples()}
    assert shown == {name for name, spec in OPERATORS.items() if "vector" in spec.forms}


@pytest.mark.server
@pytest.mark.timeout(600)
def test_the_demo_takes_every_example(demo_server: ServerProcess) -> None:
    for example in examples():
        answer = httpx.post(
            f"{demo_server.url}/v1/chat/completions",
            json={
                "model": "demo",
                "messages": [{"role": "user", "content": "hello there"}],
                "max_tokens": 6,
                "pilothouse": {"steer": [example]},
            },
            timeout=120,
        )
        assert answer.status_code == 200, (example, answer.text)
        told = answer.json()["choices"][0]["pilothouse"]
        if example["on"] != "all" or "positions" not in example:
            assert told["steered"][example["vector"]] > 0, (example, told)
