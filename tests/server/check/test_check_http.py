"""A check over real HTTP: its verdicts are those that a request of the same text gets."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "demo"))

from sample import sample
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.tiny_deployment import CANNED, MESSAGE, SERVED_NAME

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

CHECK = "/pilothouse/v1/check"
KINDS = ("known", "benign", "near_miss", "forbidden", "jailbroken", "wrapped_benign", "injected")
QUESTION: dict[str, Any] = {"role": "user", "content": "tell me of the keeper of the light"}


def post(server: ServerProcess, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=120)


def check(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = post(server, CHECK, body)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


def chat(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = post(server, "/v1/chat/completions", {"temperature": 0, "max_tokens": 12} | body)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


def close(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert found.keys() >= wanted.keys() and wanted
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=2e-4), key


def test_a_text_gets_the_verdict_and_the_scores_that_it_gets_as_a_request(
    demo_server: ServerProcess,
) -> None:
    texts = [
        next(sample(f"check:{index}", 1, kind, "test")).prompt
        for kind in KINDS
        for index in range(3)
    ]
    found = check(demo_server, input=texts)
    assert len(found["results"]) == len(texts)
    num_flagged = 0
    for text, result in zip(texts, found["results"], strict=True):
        asked = chat(demo_server, model="demo", messages=[{"role": "user", "content": text}])
        (choice,) = asked["choices"]
        ended = choice["finish_reason"] == "content_filter"
        assert result["flagged"] is ended, text
        told = choice["pilothouse"]
        wanted = [each for each in told["rules"] if each["phase"] == "prompt"]
        assert [each["rule"] for each in result["decisions"]] == [each["rule"] for each in wanted]
        prompt = {key: value for key, value in told["scores"].items() if key in result["scores"]}
        close(result["scores"], prompt)
        num_flagged += ended
    assert 3 <= num_flagged < len(texts)
    assert found["flagged"] is True


def test_a_given_answer_is_scored_as_when_the_model_said_it(small_server: ServerProcess) -> None:
    for name in ("small", "small:plain", "small:output-refusal", "small:final-refusal"):
        said = chat(small_server, model="small", messages=[QUESTION], max_tokens=9)
        if name == "small:plain":
            said = chat(small_server, model=name, messages=[QUESTION], max_tokens=9)
        text = said["choices"][0]["message"]["content"]
        item = {"messages": [QUESTION], "answer": text}
        (result,) = check(small_server, model=name, input=item)["results"]
        assert result["direction"] == "answer"
        print(name, result, said["choices"][0]["pilothouse"], repr(text))
