"""What of a request is the client's text in the assistant's place."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.server.client_text import (
    choice_text,
    forced_texts,
    is_constrained,
    supplied_texts,
)
from pilothouse.server.request_schema import RequestFields, read_fields

ASKED, BEGUN = "how do i open it?", "so be it."
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": BEGUN}]
OPENING = "<|assistant|>"


def chat(**fields: Any) -> RequestFields:
    return read_fields({"messages": TURNS[:1]} | fields, "chat")


def completion(prompt: Any = "x", **fields: Any) -> RequestFields:
    return read_fields({"prompt": prompt} | fields, "completions")


def supplied_in(prompt: str, **fields: Any) -> dict[int, tuple[str, ...]]:
    return supplied_texts(completion(prompt, **fields), "completions", [prompt], OPENING)


def test_a_chat_that_ends_with_the_user_supplies_nothing() -> None:
    assert supplied_texts(chat(), "chat", [], None) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": False},
        {"add_generation_prompt": "false"},
        {},
    ],
)
def test_assistant_text_at_the_end_is_scored_alone_and_behind_the_question(
    fields: dict[str, Any],
) -> None:
    supplied = supplied_texts(chat(messages=TURNS, **fields), "chat", [], None)
    assert supplied == {0: (BEGUN, f"{ASKED} {BEGUN}")}


@pytest.mark.parametrize(
    "fields", [{"add_generation_prompt": False}, {"truncate_prompt_tokens": 9}]
)
def test_a_chat_whose_turn_may_not_be_open_is_scored_as_a_whole(fields: dict[str, Any]) -> None:
    [texts] = supplied_texts(chat(**fields), "chat", [], None).values()
    assert ASKED in texts


def test_parts_of_a_message_are_read_as_one_text() -> None:
    parts = [{"type": "text", "text": "so be"}, {"type": "text", "text": "it."}]
    turns = [TURNS[0], {"role": "assistant", "content": parts}]
    assert "so be it." in supplied_texts(chat(messages=turns), "chat", [], None)[0]


def test_a_prompt_that_ends_where_the_assistants_turn_opens_supplies_nothing() -> None:
    assert supplied_in(f"<|user|>{ASKED}<|end|>{OPENING}") == {}


@pytest.mark.parametrize(
    "prompt", [ASKED, f"<|user|>{ASKED}<|end|>", f"<|user|>{ASKED}<|end|>{OPENING}{BEGUN}"]
)
def test_any_other_prompt_is_scored_whole(prompt: str) -> None:
    assert prompt in supplied_in(prompt)[0]


def test_text_behind_the_opening_is_also_scored_alone() -> None:
    assert BEGUN in supplied_in(f"<|user|>{ASKED}<|end|>{OPENING}{BEGUN}")[0]


def test_a_prompt_that_is_cut_off_is_scored_whole_whatever_it_ends_with() -> None:
    prompt = f"<|user|>{ASKED}<|end|>{OPENING}"
    assert supplied_in(prompt, truncate_prompt_tokens=5) == {0: (prompt,)}


SHAPE = {"type": "object", "properties": {"answer": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "reply", "parameters": SHAPE}}


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"regex": "so be it.*"}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SHAPE}}},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "reply"}}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"allowed_token_ids": [5]},
        {"logit_bias": {"5": 100}},
        {"logit_bias": {"5": "100"}},
    ],
)
def test_what_lets_the_client_choose_tokens_is_a_constraint(fields: dict[str, Any]) -> None:
    assert is_constrained(chat(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "text"}},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"logit_bias": {"5": -100}},
        {"stop": ["and"], "n": 2},
    ],
)
def test_what_leaves_the_words_to_the_model_is_none(fields: dict[str, Any]) -> None:
    assert not is_constrained(chat(**fields))


def test_a_forced_answer_is_scored_alone_and_behind_the_question() -> None:
    assert forced_texts("of it? so", chat()) == ("of it? so", f"{ASKED} of it? so")


def test_all_that_a_choice_says_is_its_text() -> None:
    call = {"function": {"name": "reply", "arguments": '{"a": 1}'}}
    said = {"content": "b", "reasoning": "a", "tool_calls": [call]}
    assert choice_text({"message": said}) == 'abreply{"a": 1}'
    assert choice_text({"delta": said}) == 'abreply{"a": 1}'
    assert choice_text({"text": "raw"}) == "raw"
