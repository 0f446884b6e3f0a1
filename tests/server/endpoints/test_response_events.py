"""A streamed response on its way through the gate: made by vLLM's own processor of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from pilothouse.server.endpoints.base import Answer
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.response.decisions import RequestDecisions
from pilothouse.server.response.exchange import Exchange
from tests.support.servers.app_parts import admit, admitted, entry_with, record, settler, stream_of
from tests.support.servers.tiny_deployment import CANNED, MESSAGE, SERVED_NAME
from tests.support.servers.vllm_responses import (
    Event,
    called,
    read,
    said,
    streamed,
    thought,
    whole,
)

RESPONSES = ENDPOINTS["responses"]
SECRET = "gloamwork"
PLAIN = [thought("hm, "), thought("yes."), said("the "), said("tide")]
CALLS = [*PLAIN, called("fetch", '{"a": '), called(None, "1}"), called("note", '{"input": "b"}', 1)]
KNOWN: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def rewritten(events: list[bytes], policy: str | None, *records: Any) -> list[bytes]:
    request = admitted(policy, "responses", stream=True)
    rewriter = stream_of("responses", request, entry_with(*(((0, 0), each) for each in records)))
    return [sent for event in events for sent in rewriter.feed(event)]


def check_order(events: list[Event]) -> None:
    """Every client can follow: items open, fill, close, and the last event has them again."""
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    assert [each["type"] for each in events[:2]] == ["response.created", "response.in_progress"]
    items: list[Event] = []
    is_open, pieces = False, ""
    for each in events[2:-1]:
        KNOWN.validate_python(each)
        assert each["output_index"] == len(items)
        if each["type"] == "response.output_item.added":
            assert not is_open
            is_open, pieces = True, ""
        elif each["type"] == "response.output_item.done":
            assert is_open
            is_open = False
            items.append(each["item"])
        else:
            assert is_open
            pieces += each.get("delta") or ""
            for key in ("text", "refusal", "arguments", "input"):
                assert each.get(key, pieces) == pieces
    assert not is_open and items == events[-1]["response"]["output"]


@pytest.mark.parametrize("deltas", [PLAIN, CALLS, [said("a")], []])
def test_an_allowed_stream_is_vllms_with_our_object_in_the_response(deltas: Any) -> None:
    events = streamed(deltas)
    plain = read(events)
    sent = read(rewritten(events, None, record(vary__output=0.5)))
    check_order(sent)
    assert sent[2:-1] == plain[2:-1]
    last = sent[-1]["response"].pop("pilothouse")
    assert last["action"] == "allow" and last["scores"] == {"vary/output": 0.5}
    assert sent[-1] == plain[-1]
    for each in sent[:2]:
        assert set(each["response"].pop("pilothouse")) == {"decision_id", "revision"}
    assert sent[:2] == plain[:2]


def test_text_passes_byte_by_byte_when_nothing_is_to_change() -> None:
    events = streamed(PLAIN)
    kept = [each for each in events if each.startswith(b"event: response.output_text.delta")]
    assert len(kept) == 2 and set(kept) <= set(rewritten(events, None, record()))


def test_without_the_grant_a_client_sees_the_action_and_nothing_else() -> None:
    body = {"model": SERVED_NAME, "input": "the tide", "stream": True}
    request = admit(body, "responses", may_see_scores=False)
    rewriter = stream_of("responses", request, entry_with(((0, 0), record(vary__output=0.5))))
    sent = read([each for event in streamed(PLAIN) for each in rewriter.feed(event)])
    mark = sent[-1]["response"]["pilothouse"]
    assert set(mark) == {"decision_id", "revision", "action"}


def test_a_stream_under_a_profile_is_answered_in_the_profiles_name() -> None:
    sent = read(rewritten(streamed(PLAIN), "plain", record()))
    assert {each["response"]["model"] for each in sent if "response" in each} == {"small:plain"}


def test_a_final_block_lets_nothing_leave_but_the_refusal() -> None:
    deltas = [thought(SECRET), said(SECRET), called("fetch", f'{{"a": "{SECRET}"}}')]
    events = rewritten(streamed(deltas), "final-refusal", record(always__output=0.99))
    assert SECRET.encode() not in b"".join(events)
    sent = read(events)
    check_order(sent)
    assert sent[-1]["type"] == "response.incomplete"
    response = sent[-1]["response"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "content_filter"}
    [item] = response["output"]
    assert item["content"] == [{"type": "refusal", "refusal": MESSAGE}]
    assert response["pilothouse"]["action"] == "block"
    assert [each["type"].removeprefix("response.") for each in sent[2:]] == [
        "output_item.added",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]


def test_a_final_rule_that_passes_lets_the_held_answer_leave_in_order() -> None:
    events = streamed(CALLS)
    sent = read(rewritten(events, "final-passes", record(never__output=0.01)))
    check_order(sent)
    assert sent[2:-1] == read(events)[2:-1]
    assert sent[-1]["type"] == "response.completed"


def test_an_answer_that_ends_by_length_stays_incomplete_for_that_reason() -> None:
    sent = read(rewritten(streamed(PLAIN, "incomplete"), None, record()))
    assert sent[-1]["type"] == "response.completed"
    assert sent[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_canned_answer_looks_like_an_answer() -> None:
    sent = read(rewritten(streamed(PLAIN), "final-respond", record(always__output=0.99)))
    check_order(sent)
    response = sent[-1]["response"]
    assert (sent[-1]["type"], response["status"]) == ("response.completed", "completed")
    [item] = response["output"]
    assert item["content"][0]["text"] == CANNED and response["incomplete_details"] is None


def test_an_output_block_ends_a_stream_behind_the_words_that_were_cleared() -> None:
    entry = entry_with(((0, 0), record()))
    request = admitted("output-late", "responses", stream=True)
    rewriter = stream_of("responses", request, entry)
    sent: list[bytes] = []
    for event in streamed(PLAIN):
        if event.startswith(b"event: response.output_text.done"):
            blocked = record("output-late")
            blocked.choice = (0, 0)
            entry.add(blocked)  # it comes before what it rides with
        sent += rewriter.feed(event)
    events = read(sent)
    check_order(events)
    items = events[-1]["response"]["output"]
    assert [each["status"] for each in items] == ["completed", "incomplete", "incomplete"]
    assert items[1]["content"][0]["text"] == "the tide"
    assert items[2]["content"] == [{"type": "refusal", "refusal": MESSAGE}]
    assert events[-1]["response"]["status"] == "incomplete"


def test_a_call_that_a_verdict_cut_is_never_told_as_whole() -> None:
    sent = read(rewritten(streamed(CALLS), "output-late", record("output-late")))
    check_order(sent)
    assert not [each for each in sent if each["type"].endswith(("arguments.done", "input.done"))]
    calls = [each for each in sent[-1]["response"]["output"] if each["type"].endswith("_call")]
    assert len(calls) == 2 and {each["status"] for each in calls} == {"incomplete"}


@pytest.mark.parametrize("policy", ["prompt-refusal", "output-passes", "final-passes"])
def test_an_answer_without_an_account_says_nothing_and_ends(policy: str) -> None:
    events = rewritten(streamed([said(SECRET)]), policy)
    assert SECRET.encode() not in b"".join(events)
    check_order(read(events))
    assert read(events)[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_nothing_starts_before_the_engine_is_heard_of() -> None:
    request = admitted(None, "responses", stream=True)
    rewriter = stream_of("responses", request, entry_with(((0, 0), record())))
    heard = []
    for event in streamed(PLAIN):
        rewriter.feed(event)
        heard.append(rewriter.may_start)
    assert heard == [False, False] + [True] * (len(heard) - 2)


def test_an_error_drops_what_was_held_and_ends_the_stream() -> None:
    request = admitted("final-passes", "responses", stream=True)
    rewriter = stream_of("responses", request, entry_with(((0, 0), record())))
    error = b'event: error\ndata: {"type":"error","message":"broken","sequence_number":9}\n\n'
    events = streamed([said(SECRET)])
    sent = [each for event in (*events[:-1], error, events[-1]) for each in rewriter.feed(event)]
    assert rewriter.failed and SECRET.encode() not in b"".join(sent)
    assert read(sent)[-1] == {"type": "error", "message": "broken", "sequence_number": 2}


def test_text_of_the_model_that_looks_like_an_event_changes_nothing() -> None:
    odd = 'event: response.completed\ndata: {"type":"response.completed"}\n\n'
    sent = read(rewritten(streamed([said(odd)]), None, record()))
    check_order(sent)
    assert sent[-1]["response"]["output"][0]["content"][0]["text"] == odd


WORDS = st.sampled_from(["the ", "tide ", SECRET, '"', "\n\n", "\u00e9"])
PIECES = st.lists(
    st.builds(said, WORDS)
    | st.builds(thought, WORDS)
    | st.builds(called, st.sampled_from(["fetch", "note"]), WORDS, st.integers(0, 2)),
    max_size=8,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pieces=PIECES, policy=st.sampled_from(["final-refusal", "final-respond", "prompt-refusal"]))
def test_whatever_was_said_nothing_withheld_leaves(pieces: Any, policy: str) -> None:
    told = record(always__output=0.9) if policy != "prompt-refusal" else record(policy)
    events = rewritten(streamed(pieces), policy, *([] if told.verdict else [told]))
    check_order(read(events))
    assert SECRET.encode() not in b"".join(events)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pieces=PIECES, at=st.integers(0, 60))
def test_whenever_a_verdict_becomes_known_clients_can_follow(pieces: Any, at: int) -> None:
    entry = entry_with(((0, 0), record()))
    rewriter = stream_of("responses", admitted("output-late", "responses", stream=True), entry)
    sent: list[bytes] = []
    events = streamed(pieces)
    for number, event in enumerate(events):
        if number == min(at, len(events) - 1):
            blocked = record("output-late")
            blocked.choice = (0, 0)
            entry.add(blocked)
        sent += rewriter.feed(event)
    check_order(read(sent))
    assert read(sent)[-1]["response"]["output"][-1]["content"][0].get("refusal") == MESSAGE


@pytest.mark.parametrize("policy", ["plain", "output-refusal", "prompt-refusal"])
async def test_a_request_that_the_engine_refuses_is_no_stream(policy: str) -> None:
    """vLLM begins the stream at once, and breaks off when it hears of the error."""
    entry = RequestDecisions()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    answer = Answer(admitted(policy, "responses", stream=True), entry, settler())
    exchange = Exchange(RESPONSES, answer, send)
    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": kind})
    for event in streamed(PLAIN)[:2]:
        await exchange.send({"type": "http.response.body", "body": event, "more_body": True})
    assert sent == [] and not await exchange.answered_failure()
    entry.error = "capacity"
    assert await exchange.answered_failure()
    assert [each.get("status") for each in sent] == [503, None]
    assert b"pilothouse_capacity" in sent[1]["body"] and exchange.outcome == "error"


@pytest.mark.parametrize("policy", ["final-refusal", "output-refusal", "prompt-refusal"])
def test_a_whole_answer_that_a_rule_ends_holds_the_refusal_alone(policy: str) -> None:
    body = whole([thought(SECRET), said(SECRET), called("fetch", SECRET)])
    body["output_messages"] = [{"type": "raw_message_tokens", "message": SECRET, "tokens": [1]}]
    told = record(always__output=0.9) if policy == "final-refusal" else record(policy)
    answer = Answer(admitted(policy, "responses"), entry_with(((0, 0), told)), settler())
    assert RESPONSES.rewrite(body, answer) == ["block"]
    assert SECRET not in str(body)
    assert (body["status"], body["model"]) == ("incomplete", f"{SERVED_NAME}:{policy}")
    assert body["pilothouse"]["action"] == "block" and "decision_id" in body["pilothouse"]
