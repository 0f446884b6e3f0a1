"""A choice of which the engine told nothing ends, whatever `on_error` says: whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilothouse.record import Decision, Record
from pilothouse.server.endpoints.base import Answer
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.response.decisions import RequestDecisions
from pilothouse.server.response.exchange import Exchange
from tests.support.servers.app_parts import (
    admitted,
    chunks_of,
    entry_with,
    record,
    recorded_body,
    recorded_events,
    settler,
    stream_of,
)

CHAT = ENDPOINTS["chat"]
GUARDED = ("prompt-refusal", "output-passes", "final-passes")


def good(index: int) -> tuple[tuple[int, int], Record]:
    return (0, index), record(always__output=0.1, never__output=0.1)


def finishes(events: list[bytes]) -> list[tuple[int, str]]:
    return [
        (choice["index"], choice["finish_reason"])
        for chunk in chunks_of(events)
        for choice in chunk["choices"]
        if choice.get("finish_reason")
    ]


def said(events: list[bytes], index: int) -> str:
    parts = [choice for chunk in chunks_of(events) for choice in chunk["choices"]]
    return "".join(part["delta"].get("content") or "" for part in parts if part["index"] == index)


def streamed(policy: str | None, *records: Any, n: int) -> list[bytes]:
    request = admitted(policy, stream=True, n=n)
    shaper = stream_of("chat", request, entry_with(*records))
    return [sent for event in recorded_events("chat-two") for sent in shaper.feed(event)]


@pytest.mark.parametrize("policy", GUARDED)
def test_a_streamed_choice_without_an_account_says_nothing_and_ends(policy: str) -> None:
    events = streamed(policy, good(0), n=2)
    assert dict(finishes(events)) == {0: "length", 1: "content_filter"}
    assert said(events, 0) and not said(events, 1)


@pytest.mark.parametrize("policy", GUARDED)
def test_one_streamed_choice_too_many_ends_with_what_is_still_open(policy: str) -> None:
    events = streamed(policy, good(0), n=1)
    assert (1, "content_filter") in finishes(events) and not said(events, 1)
    assert dict(finishes(events))[0] == "content_filter"


def test_what_no_rule_could_end_needs_no_account() -> None:
    events = streamed(None, n=2)
    assert dict(finishes(events)) == {0: "length", 1: "length"}


def body_of_two() -> dict[str, Any]:
    body = recorded_body("chat")
    second = json.loads(json.dumps(body["choices"][0])) | {"index": 1}
    return body | {"choices": [body["choices"][0], second]}


@pytest.mark.parametrize("policy", GUARDED)
def test_a_whole_choice_without_an_account_ends(policy: str) -> None:
    counted: list[Decision] = []
    body = body_of_two()
    request = admitted(policy, n=2)
    CHAT.rewrite(body, Answer(request, entry_with(good(0)), settler(counted)))
    assert [each["finish_reason"] == "content_filter" for each in body["choices"]] == [False, True]
    assert body["choices"][1]["message"]["content"] is None
    assert (policy, "error_blocked") in {(each.policy, each.result) for each in counted}


@pytest.mark.parametrize("policy", GUARDED)
@pytest.mark.parametrize("n", [1, 3])
def test_another_number_of_choices_ends_every_one(policy: str, n: int) -> None:
    body = body_of_two()
    entry = entry_with(*(good(index) for index in range(max(n, 2))))
    CHAT.rewrite(body, Answer(admitted(policy, n=n), entry, settler()))
    assert {each["finish_reason"] for each in body["choices"]} == {"content_filter"}


def test_a_record_of_no_known_choice_is_nobodys_account() -> None:
    entry = RequestDecisions()
    entry.add(record(always__output=0.1))
    assert not entry.choices
    failed = record()
    failed.error = "capacity"
    entry.add(failed)
    assert entry.error == "capacity" and not entry.choices


async def answer_of(headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    exchange = Exchange(CHAT, Answer(admitted(None), entry_with(good(0)), settler()), send)
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    body = json.dumps(recorded_body("chat")).encode()
    await exchange.send({"type": "http.response.body", "body": body})
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(("encoding", "status"), [(b"gzip", 503), (b"identity", 200)])
def test_an_answer_that_was_encoded_unasked_does_not_leave(encoding: bytes, status: int) -> None:
    import asyncio

    kind = (b"content-type", b"application/json")
    found, raw = asyncio.run(answer_of([kind, (b"content-encoding", encoding)]))
    assert found == status
    if status == 503:
        assert json.loads(raw)["error"]["code"] == "pilothouse_encoded"
