"""Checks and chats of a running server, as tests of the check ask them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "demo"))

from sample import sample
from tests.support.servers.server_process import ServerProcess

CHECK = "/pilothouse/v1/check"

KINDS = ("known", "unknown", "benign", "near_miss", "forbidden", "jailbroken", "injected")

QUESTION: dict[str, Any] = {"role": "user", "content": "tell me of the keeper of the light"}


def post(server: ServerProcess, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=120)


def check(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = post(server, CHECK, body)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


def chat(server: ServerProcess, **body: Any) -> dict[str, Any]:
    """The only choice of a chat."""
    answer = post(server, "/v1/chat/completions", {"temperature": 0, "max_tokens": 64} | body)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    read: dict[str, Any] = choice
    return read


def is_ended(choice: dict[str, Any]) -> bool:
    return bool(choice["finish_reason"] == "content_filter")


def close(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert found.keys() == wanted.keys() and wanted
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=2e-4), key


def texts(*kinds: str, count: int = 3) -> list[str]:
    return [
        next(sample(f"check:{index}", 1, kind, "test")).prompt
        for kind in kinds
        for index in range(count)
    ]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
