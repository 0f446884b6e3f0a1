"""What of a request is the client's text in the assistant's place."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from pilothouse.server.app import pins_tools
from pilothouse.server.endpoints.choices import choice_text
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.request_schema import MAX_BANS, RequestFields, is_constrained
from pilothouse.server.rescoring import forced_texts, supplied_text

ASKED, BEGUN = "how do i open it?", "so be it."
QUESTION = {"role": "user", "content": ASKED}


def chat(**fields: Any) -> RequestFields:
    return ENDPOINTS["chat"].read({"messages": [QUESTION]} | fields)


def supplied(answer: dict[str, Any] | None = None, **fields: Any) -> tuple[str, ...]:
    messages = [QUESTION, *([] if answer is None else [{"role": "assistant"} | answer])]
    body = {"messages": messages} | fields
    return supplied_text(ENDPOINTS["chat"].read(body))


def test_a_chat_that_ends_with_the_user_supplies_nothing() -> None:
    assert supplied() == ()


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
    assert supplied({"content": BEGUN}, **fields) == (BEGUN, f"{ASKED} {BEGUN}")


@pytest.mark.parametrize(
    "fields", [{"add_generation_prompt": False}, {"truncate_prompt_tokens": 9}]
)
def test_a_chat_whose_turn_may_not_be_open_is_scored_as_a_whole(fields: dict[str, Any]) -> None:
    assert ASKED in supplied(**fields)


@pytest.mark.parametrize(
    "answer",
    [
        {"content": BEGUN},
        {"content": [{"type": "text", "text": BEGUN}]},
        {"content": [BEGUN]},
        {"content": [{"type": "refusal", "refusal": BEGUN}]},
        {"content": "well,", "reasoning": BEGUN},
        {"content": "well,", "reasoning_content": BEGUN},
        {
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "reply", "arguments": BEGUN}}
            ],
        },
    ],
    ids=["text", "part", "bare part", "refusal", "reasoning", "reasoning content", "call"],
)
def test_wherever_a_message_holds_text_it_is_scored_with_the_question(
    answer: dict[str, Any],
) -> None:
    alone, together = supplied(answer, continue_final_message=True, add_generation_prompt=False)
    assert BEGUN in alone and ASKED in together and BEGUN in together


def test_parts_of_the_question_are_read_too() -> None:
    question = {"role": "user", "content": [{"type": "text", "text": ASKED}]}
    body = {"messages": [question, {"role": "assistant", "content": BEGUN}]}
    assert supplied_text(ENDPOINTS["chat"].read(body))[1] == f"{ASKED} {BEGUN}"


SHAPE = {"type": "object", "properties": {"answer": {"type": "string"}}}
FUNCTION = {"name": "reply", "parameters": SHAPE}
TOOL = {"type": "function", "function": FUNCTION}
STRICT_TOOL = {"type": "function", "function": FUNCTION | {"strict": True}}


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
        {"logit_bias": {str(each): -100 for each in range(MAX_BANS + 1)}},
        {"bad_words": ["kelm"] * (MAX_BANS + 1)},
        {"bad_words": ["kelm"] * 9, "logit_bias": {str(each): -1 for each in range(8)}},
        {"tools": [TOOL, STRICT_TOOL], "tool_choice": "auto"},
        {"tools": [STRICT_TOOL]},
        {"tools": [TOOL], "parallel_tool_calls": False},
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
        {"logit_bias": {"5": -100}, "bad_words": ["kelm"]},
        {"logit_bias": {"5": 0}},
        {"logit_bias": {}, "bad_words": []},
        {"tools": [STRICT_TOOL], "tool_choice": "none"},
        {"parallel_tool_calls": False},
        {"stop": ["and"], "n": 2},
    ],
)
def test_what_leaves_the_words_to_the_model_is_none(fields: dict[str, Any]) -> None:
    assert not is_constrained(chat(**fields))


def test_tools_are_a_constraint_where_the_server_makes_a_grammar_of_them() -> None:
    asked = chat(tools=[TOOL], tool_choice="auto")
    assert is_constrained(asked, pins_tools=True)
    assert not is_constrained(asked)
    assert not is_constrained(chat(), pins_tools=True)


@pytest.mark.parametrize(
    ("flags", "pinned"),
    [
        ({"tool_call_parser": "hermes", "tool_strict_level": "auto"}, False),
        ({"tool_call_parser": "hermes", "tool_strict_level": "parameter"}, True),
        ({"tool_call_parser": "glm47", "tool_strict_level": "auto"}, True),
        ({}, False),
    ],
)
def test_the_server_makes_a_grammar_of_tools_by_its_flag_or_for_its_parser(
    flags: dict[str, str], pinned: bool
) -> None:
    assert pins_tools(Namespace(**flags)) is pinned


def test_a_forced_answer_is_scored_alone_and_behind_the_question() -> None:
    assert forced_texts("of it, so", ASKED) == ("of it, so", f"{ASKED} of it, so")


def test_a_forced_answer_is_scored_wherever_it_could_have_ended() -> None:
    """Behind the question and the answer a grammar may write anything."""
    assert f"{ASKED} of it? so be it." in forced_texts("of it? so be it. bye. bye.", ASKED)


def test_all_that_a_choice_says_is_its_text() -> None:
    call = {"function": {"name": "reply", "arguments": '{"a": 1}'}}
    said = {"content": "b", "reasoning": "a", "tool_calls": [call]}
    assert choice_text({"message": said}) == 'abreply{"a": 1}'
    assert choice_text({"delta": said}) == 'abreply{"a": 1}'
    assert choice_text({"text": "raw"}) == "raw"
