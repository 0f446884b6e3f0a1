"""What the gate reads in the body of a response, and what it refuses there."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from pilothouse.errors import RequestError
from pilothouse.limits import Limits
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.request_schema import RequestFields, Unreadable, is_constrained
from pilothouse.server.rescoring import supplied_text
from tests.support.servers.app_parts import admit

RESPONSES = ENDPOINTS["responses"]
ASKED, BEGUN, REFUSED = "how do i open it?", "so be it.", "No."
QUESTION = {"role": "user", "content": ASKED}
FUNCTION = {"type": "function", "name": "reply", "parameters": {"type": "object"}}
SPACE = {"type": "namespace", "name": "crm", "description": "a"}
SHAPE = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}


def begun(status: str | None = None, **fields: Any) -> dict[str, Any]:
    """An item of the assistant's, as clients send it."""
    part = {"type": "output_text", "text": BEGUN, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    return item | ({} if status is None else {"status": status}) | fields


def read(**fields: Any) -> RequestFields:
    return RESPONSES.read({"input": ASKED} | fields)


def refused(**fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert caught.value.param in fields
    return str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"background": True},
        {"background": "true"},
        {"store": True},
        {"store": 1},
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"previous_input_messages": [{"role": "user"}]},
    ],
)
def test_what_is_kept_between_requests_is_refused_with_what_was_got(fields: Any) -> None:
    [(name, _)] = fields.items()
    assert refused(**fields).startswith(f"{name}: got ")


@pytest.mark.parametrize("value", [None, False, "absent"])
def test_nothing_is_kept_by_a_server_that_could(value: Any) -> None:
    body = {"input": ASKED} | ({} if value == "absent" else {"store": value})
    RESPONSES.read(body)
    assert body["store"] is False


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search"},
        {"type": "web_search_preview"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "mcp", "server_label": "a", "server_url": "http://a"},
        {"type": "local_shell"},
        {"type": "file_search", "vector_store_ids": ["a"]},
        {"type": "apply_patch"},
    ],
)
def test_tools_that_the_server_would_run_are_refused(tool: Any) -> None:
    assert "no rule looks at" in refused(tools=[FUNCTION, tool])


def test_tools_of_the_client_pass_in_a_namespace_too() -> None:
    space = SPACE | {"tools": [FUNCTION]}
    read(tools=[FUNCTION, {"type": "custom", "name": "note"}, space], tool_choice="auto")


@pytest.mark.parametrize(
    "name", ["messages", "n", "max_tokens", "response_format", "logprobs", "bad_words", "echo"]
)
def test_a_field_of_a_chat_is_refused_and_not_left_without_effect(name: str) -> None:
    assert "has no effect here" in refused(**{name: 1})


def test_fields_that_vllms_request_does_not_have_do_not_reach_it() -> None:
    body = {"input": ASKED, "unheard_of": 1, "stream_options": {}, "_grammar": "a", "n": None}
    RESPONSES.read(body)
    assert body == {"input": ASKED, "store": False}


def test_instructions_and_items_are_one_conversation() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "reply", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "a", "output": "done"}
    items = [QUESTION, begun("completed"), call, result, {"role": "developer", "content": "b"}]
    found = read(instructions="be kind", input=items)
    assert found.roles == ("system", "user", "assistant", "tool", "developer")
    assert found.messages is not None and json.dumps(found.messages)
    assert found.add_generation_prompt and not found.continue_final_message
    assert supplied_text(found) == ()


@pytest.mark.parametrize("status", ["in_progress", "incomplete"])
def test_an_open_last_turn_is_text_of_the_clients(status: str) -> None:
    found = read(input=[QUESTION, begun(status)])
    assert found.continue_final_message and not found.add_generation_prompt
    assert supplied_text(found) == (BEGUN, f"{ASKED} {BEGUN}")


def test_a_users_turn_can_be_left_open_too() -> None:
    part = {"type": "input_text", "text": ASKED}
    item = {"type": "message", "role": "user", "content": [part], "status": "incomplete"}
    found = read(input=[item])
    assert found.continue_final_message and ASKED in supplied_text(found)


@pytest.mark.parametrize(
    "item",
    [
        begun("completed"),
        begun(),
        {"role": "assistant", "content": BEGUN},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": BEGUN}],
        },
        {"type": "function_call", "call_id": "a", "name": "reply", "arguments": BEGUN},
    ],
)
def test_whatever_item_of_the_assistants_stands_last_is_scored(item: Any) -> None:
    alone, together = supplied_text(read(input=[QUESTION, item]))
    assert BEGUN in alone and ASKED in together and BEGUN in together


@pytest.mark.parametrize("truncation", ["auto", None])
def test_a_prompt_that_may_be_cut_is_scored_as_a_whole(truncation: str | None) -> None:
    assert read(truncation=truncation).truncated
    assert ASKED in supplied_text(read(truncation=truncation))
    assert not read(truncation="disabled").truncated and not read().truncated


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"regex": "so be it.*"}},
        {"text": SHAPE},
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "reply"}},
        {"tools": [FUNCTION], "tool_choice": "required"},
        {"tools": [FUNCTION | {"strict": True}]},
        {"tools": [SPACE | {"tools": [FUNCTION | {"strict": True}]}]},
        {"tools": [FUNCTION], "parallel_tool_calls": False},
        {"logit_bias": {"5": 100}},
    ],
)
def test_what_lets_the_client_choose_tokens_is_a_constraint(fields: dict[str, Any]) -> None:
    assert is_constrained(read(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": {"format": {"type": "json_object"}}},
        {"text": {"format": {"type": "text"}}},
        {"text": {"verbosity": "low"}},
        {"tools": [FUNCTION]},
        {"parallel_tool_calls": False},
        {"tools": [FUNCTION | {"strict": True}], "tool_choice": "none"},
        {"logit_bias": {"5": -100}},
        {"stop": ["and"]},
    ],
)
def test_what_leaves_the_words_to_the_model_is_none(fields: dict[str, Any]) -> None:
    assert not is_constrained(read(**fields))


def test_tools_are_a_constraint_where_the_server_makes_a_grammar_of_them() -> None:
    assert is_constrained(read(tools=[FUNCTION]), pins_tools=True)
    assert not is_constrained(read(), pins_tools=True)


def test_logprobs_are_asked_for_by_include_alone() -> None:
    wish = {"include": ["message.output_text.logprobs"]}
    assert read(top_logprobs=3).num_logprobs is None
    assert read(**wish).num_logprobs == 0
    assert read(**wish, top_logprobs="3").num_logprobs == 3


def test_a_refusal_in_the_history_is_the_assistants_text() -> None:
    item = begun("incomplete", content=[{"type": "refusal", "refusal": REFUSED}])
    body = {"input": [QUESTION, item, QUESTION]}
    found = RESPONSES.read(body)
    assert found.messages is not None
    assert found.messages[1] == {"role": "assistant", "content": REFUSED}
    assert body["input"][1]["content"][0]["text"] == REFUSED
    json.dumps(body)


def test_the_body_that_goes_on_is_json_whatever_vllms_validators_make_of_it() -> None:
    body = {"input": [QUESTION, begun(), {"type": "reasoning", "summary": []}]}
    RESPONSES.read(body)
    assert json.loads(json.dumps(body))["input"][0] == QUESTION


@pytest.mark.parametrize(
    "fields", [{"input": 5}, {"input": [{"type": "nothing"}]}, {"tools": "a"}, {"stream": "maybe"}]
)
def test_what_vllm_cannot_read_is_its_own_to_explain(fields: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        read(**fields)


def test_what_would_break_vllm_is_a_400_of_ours() -> None:
    with pytest.raises(RequestError, match="wrong kind"):
        read(input=[begun(content=[])])


ITEM = {"role": "user", "content": [{"type": "input_text", "text": "a"}]}


@pytest.mark.parametrize(
    ("limit", "most", "made"),
    [
        ("max_items", 6, lambda n: {"input": [{"role": "user", "content": "a"}] * n}),
        ("max_items", 4, lambda n: {"input": [ITEM | {"content": ITEM["content"] * (n - 1)}]}),
        ("max_tools", 2, lambda n: {"tools": [SPACE | {"tools": [FUNCTION] * n}]}),
        (
            "max_guide_repeats",
            3,
            lambda n: {
                "text": {"format": {"type": "json_schema", "schema": {"pattern": "a*" * n}}}
            },
        ),
    ],
)
async def test_a_bound_is_taken_at_and_refused_one_above(limit: str, most: int, made: Any) -> None:
    limits = Limits.model_validate({limit: most}).served()
    await RESPONSES.refuse_large(made(most), limits)
    with pytest.raises(RequestError, match=limit):
        await RESPONSES.refuse_large(made(most + 1), limits)


@pytest.mark.parametrize("broken", [{}, 5, "a", {"type": "message"}, {"type": "web"}, []])
@pytest.mark.parametrize("field", ["input", "tools"])
async def test_entries_that_vllm_does_not_read_are_refused_at_the_first(
    field: str, broken: Any
) -> None:
    """Of each vLLM would make hundreds of errors, and of a list of them a page for each."""
    fine = {"input": ITEM, "tools": FUNCTION}[field]
    body = {"input": ASKED, field: [fine, *[broken] * 100]}
    begun_at = time.perf_counter()
    with pytest.raises(RequestError, match=rf"^{field}\.1: got one of type"):
        await RESPONSES.refuse_large(body, Limits().served())
    assert time.perf_counter() - begun_at < 0.5


@pytest.mark.parametrize("given", [{"a": 1}, 5, True])
async def test_an_input_that_is_no_list_is_no_list_of_its_keys(given: Any) -> None:
    with pytest.raises(RequestError, match="want a text or a list"):
        await RESPONSES.refuse_large({"input": given}, Limits().served())


def test_a_response_is_admitted_as_one_choice_of_one_prompt() -> None:
    found = admit({"input": ASKED, "model": "small:plain", "stream": True}, "responses")
    assert (found.num_choices, found.stream, found.asked_model) == (1, True, "small:plain")


@pytest.mark.parametrize(
    "fields", [{"input": [QUESTION, begun("incomplete")]}, {"kv_transfer_params": {"a": 1}}]
)
def test_what_passes_a_guard_by_is_refused_as_on_a_chat(fields: dict[str, Any]) -> None:
    body = {"input": ASKED, "model": "small:output-refusal"} | fields
    with pytest.raises(RequestError):
        admit(body, "responses")


def test_a_blocked_request_makes_one_token() -> None:
    assert RESPONSES.shortest({"input": "a", "max_output_tokens": 90})["max_output_tokens"] == 1
