"""Streams that a real server made, on their way through the gate."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilothouse.record import Decision
from pilothouse.server.answers import EventSplitter
from tests.support.servers.app_parts import (
    admit,
    admitted,
    body_of,
    chunks_of,
    entry_with,
    record,
    recorded_events,
    stream_of,
)
from tests.support.servers.tiny_deployment import CANNED, MESSAGE

Chunk = dict[str, Any]
ENDPOINT = {"chat": "chat", "completions": "completions"}


def endpoint_of(name: str) -> Any:
    return "completions" if name.startswith("completions") else "chat"


def shaped(name: str, policy: str | None, *records: Any, **changes: Any) -> list[bytes]:
    endpoint = endpoint_of(name)
    request = admitted(policy, endpoint, stream=True, **changes)
    shaper = stream_of(endpoint, request, entry_with(*records))
    return [sent for event in recorded_events(name) for sent in shaper.feed(event)]


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    parts = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(part.get("text") or part.get("delta", {}).get("content") or "" for part in parts)


def finishes(chunks: list[Chunk]) -> list[tuple[int, str]]:
    return [
        (choice["index"], choice["finish_reason"])
        for chunk in chunks
        for choice in chunk["choices"]
        if choice.get("finish_reason")
    ]


@pytest.mark.parametrize("name", ["chat", "chat-logprobs", "completions"])
def test_an_allowed_stream_keeps_every_word_and_gets_a_mark_at_its_end(name: str) -> None:
    plain = chunks_of(recorded_events(name))
    sent = chunks_of(shaped(name, None, ((0, 0), record(vary__output=0.5))))
    assert text_of(sent) == text_of(plain) != ""
    assert finishes(sent) == finishes(plain)
    (final,) = [each for chunk in sent for each in chunk["choices"] if each.get("finish_reason")]
    assert final["pilothouse"]["action"] == "allow"
    assert final["pilothouse"]["scores"] == {"vary/output": 0.5}
    assert "decision_id" in sent[0]["pilothouse"]


def test_a_stream_under_a_profile_is_answered_in_the_profiles_name() -> None:
    sent = chunks_of(shaped("chat", "plain"))
    assert {chunk["model"] for chunk in sent} == {"small:plain"}


def test_unfinished_chunks_pass_byte_by_byte_when_nothing_is_to_change() -> None:
    events = recorded_events("chat")
    assert shaped("chat", None)[1:6] == events[1:6]


@pytest.mark.parametrize("name", ["chat", "completions"])
def test_a_final_block_lets_no_word_of_the_answer_leave(name: str) -> None:
    sent = chunks_of(shaped(name, "final-refusal", ((0, 0), record(always__output=0.99))))
    assert text_of(sent) == ""
    assert finishes(sent) == [(0, "content_filter")]


def test_a_final_block_leaves_the_shape_of_a_refusal() -> None:
    events = shaped("chat", "final-refusal", ((0, 0), record(always__output=0.99)))
    sent = chunks_of(events)
    deltas = [choice["delta"] for chunk in sent for choice in chunk["choices"]]
    assert deltas == [{"role": "assistant", "content": ""}, {"refusal": MESSAGE}, {}]
    assert sent[-1]["choices"] == [] and sent[-1]["usage"]["completion_tokens"] == 6
    assert events[-1] == b"data: [DONE]\n\n"


def test_a_final_rule_that_passes_lets_the_buffered_answer_leave_in_order() -> None:
    sent = chunks_of(shaped("chat", "final-passes", ((0, 0), record(never__output=0.01))))
    assert text_of(sent) == text_of(chunks_of(recorded_events("chat")))
    assert finishes(sent) == [(0, "length")]


def test_a_final_rule_without_a_score_blocks_because_it_is_closed() -> None:
    sent = chunks_of(shaped("chat", "final-passes", ((0, 0), record())))
    assert text_of(sent) == "" and finishes(sent) == [(0, "content_filter")]


def test_final_rules_are_counted_once_per_choice() -> None:
    counted: list[Decision] = []
    request = admitted("final-refusal", stream=True, n=2)
    entry = entry_with(*(((0, i), record(always__output=0.9)) for i in (0, 1)))
    shaper = stream_of("chat", request, entry, counted)
    for event in recorded_events("chat-two"):
        shaper.feed(event)
    blocked = [each for each in counted if each.policy == "final-refusal"]
    assert [each.result for each in blocked] == ["blocked", "blocked"]


def test_only_the_offending_choice_of_two_is_ended() -> None:
    plain = chunks_of(recorded_events("chat-two"))
    good, bad = record(always__output=0.1), record(always__output=0.9)
    sent = chunks_of(shaped("chat-two", "final-refusal", ((0, 0), good), ((0, 1), bad), n=2))
    assert text_of(sent, 0) == text_of(plain, 0) != ""
    assert text_of(sent, 1) == ""
    assert sorted(finishes(sent)) == [(0, "length"), (1, "content_filter")]


def test_of_two_prompts_with_two_choices_the_right_one_is_ended() -> None:
    plain = chunks_of(recorded_events("completions-two-by-two"))
    scores = {(0, 0): 0.1, (0, 1): 0.1, (1, 0): 0.9, (1, 1): 0.1}
    records = [(key, record(always__output=value)) for key, value in scores.items()]
    prompts = ["the boats", "the keeper"]
    sent = chunks_of(
        shaped("completions-two-by-two", "final-refusal", *records, prompt=prompts, n=2)
    )
    assert dict(finishes(sent)) == {0: "length", 1: "length", 2: "content_filter", 3: "length"}
    assert text_of(sent, 2) == "" and text_of(sent, 3) == text_of(plain, 3)


def cut_by_the_engine(events: list[bytes], after: int) -> list[bytes]:
    """What vLLM sends when the scheduler ends a choice: an empty finish with a stop reason."""
    chunk = json.loads(events[after].decode().removeprefix("data: "))
    chunk["choices"][0] |= {"finish_reason": "stop", "stop_reason": "pilothouse:block"}
    if "delta" in chunk["choices"][0]:
        chunk["choices"][0]["delta"] = {"content": ""}
    else:
        chunk["choices"][0]["text"] = ""
    return [*events[: after + 1], f"data: {json.dumps(chunk)}\n\n".encode(), *events[-2:]]


@pytest.mark.parametrize("name", ["chat", "completions"])
def test_an_output_block_ends_a_stream_after_the_words_that_were_cleared(name: str) -> None:
    endpoint = endpoint_of(name)
    request = admitted("output-late", endpoint, stream=True)
    entry = entry_with(((0, 0), record("output-late")))
    shaper = stream_of(endpoint, request, entry)
    events = cut_by_the_engine(recorded_events(name), 3)
    sent = [each for event in events for each in shaper.feed(event)]
    assert b"pilothouse:block" not in b"".join(sent)
    chunks = chunks_of(sent)
    assert text_of(chunks) == text_of(chunks_of(recorded_events(name)[:4])) != ""
    assert finishes(chunks) == [(0, "content_filter")]
    refusals = [
        part["delta"].get("refusal") for c in chunks for part in c["choices"] if "delta" in part
    ]
    assert (MESSAGE in refusals) is (name == "chat")


def test_a_choice_that_never_had_a_token_still_gets_its_end() -> None:
    events = recorded_events("chat")
    request = admitted("prompt-refusal", stream=True)
    entry = entry_with(((0, 0), record("prompt-refusal")))
    shaper = stream_of("chat", request, entry)
    sent = [each for event in (events[0], *events[-2:]) for each in shaper.feed(event)]
    chunks = chunks_of(sent)
    assert finishes(chunks) == [(0, "content_filter")]
    assert chunks[-1]["choices"] == [] and sent[-1] == b"data: [DONE]\n\n"
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


def test_a_canned_answer_looks_like_an_answer() -> None:
    sent = chunks_of(shaped("chat", "final-respond", ((0, 0), record(always__output=0.99))))
    assert text_of(sent) == CANNED and finishes(sent) == [(0, "stop")]


def test_model_text_that_looks_like_a_finish_or_an_error_changes_nothing() -> None:
    events = recorded_events("chat")
    chunk = json.loads(events[1].decode().removeprefix("data: "))
    chunk["choices"][0]["delta"]["content"] = (
        '{"error":1,"finish_reason":"stop"}\n\ndata: [DONE]\n\n'
    )
    odd = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    shaper = stream_of("chat", admitted(None, stream=True), entry_with())
    sent = [each for event in (events[0], odd, *events[2:]) for each in shaper.feed(event)]
    assert sent[1] == odd and not shaper.failed


def test_an_error_frame_of_vllm_drops_what_was_buffered_and_passes() -> None:
    events = recorded_events("chat")
    error = b'data: {"error":{"message":"broken","type":"InternalServerError","code":500}}\n\n'
    request = admitted("final-passes", stream=True)
    shaper = stream_of("chat", request, entry_with(((0, 0), record())))
    feed = (*events[:4], error, b"data: [DONE]\n\n")
    sent = [each for event in feed for each in shaper.feed(event)]
    assert sent == [error, b"data: [DONE]\n\n"] and shaper.failed


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_events_are_whole_however_the_bytes_are_cut(size: int) -> None:
    raw = b": keep-alive\n\n" + b"".join(recorded_events("chat"))
    splitter = EventSplitter()
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    events = [event for piece in pieces for event in splitter.feed(piece)]
    assert events == [b": keep-alive\n\n", *recorded_events("chat")]


def test_without_the_grant_a_client_sees_the_action_and_nothing_else() -> None:
    request = admit(body_of("chat"), may_see_scores=False)
    entry = entry_with(((0, 0), record(vary__output=0.5)))
    shaper = stream_of("chat", request, entry)
    sent = chunks_of([s for event in recorded_events("chat") for s in shaper.feed(event)])
    (final,) = [each for chunk in sent for each in chunk["choices"] if each.get("finish_reason")]
    assert final["pilothouse"] == {"action": "allow"}
