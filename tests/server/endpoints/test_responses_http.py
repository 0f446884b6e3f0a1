"""/v1/responses in front of a real engine, over real HTTP, with the real openai client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, OpenAI

from tests.server.endpoints.test_response_events import check_order
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.tiny_deployment import (
    CANNED,
    LEAKED_TOKENS,
    MESSAGE,
    SERVED_NAME,
    STRONG,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
ASKED = "tell me of the keeper of the light"
MESSAGES = [{"role": "user", "content": ASKED}]
TOKENS = 8
LOGPROBS = ["message.output_text.logprobs"]
ENDING = {"output-refusal": "output", "final-refusal": "final", "prompt-refusal": "prompt"}


@pytest.fixture
def client(small_server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{small_server.url}/v1", api_key="none", max_retries=0)


def create(client: OpenAI, policy: str | None = None, **changes: Any) -> Any:
    model = f"{SERVED_NAME}:{policy}" if policy else SERVED_NAME
    fields = {"model": model, "input": ASKED, "max_output_tokens": TOKENS, "temperature": 0}
    return client.responses.create(**(fields | changes))


def streamed(client: OpenAI, policy: str | None = None, **changes: Any) -> tuple[list[Any], Any]:
    """The events of a stream, in order as a client may count on it, and the response at its end."""
    events = list(create(client, policy, stream=True, **changes))
    check_order([each.model_dump(exclude_unset=True) for each in events])
    return events, events[-1].response


def mark(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.model_extra["pilothouse"]
    return found


def refusals(response: Any) -> list[str]:
    parts = [part for item in response.output for part in item.content]
    return [part.refusal for part in parts if part.type == "refusal"]


def deltas(events: list[Any]) -> str:
    return "".join(each.delta for each in events if each.type == "response.output_text.delta")


def test_an_allowed_response_carries_its_decision_and_scores(client: OpenAI) -> None:
    raw = client.responses.with_raw_response.create(
        model=SERVED_NAME, input=ASKED, max_output_tokens=TOKENS, temperature=0
    )
    response = raw.parse()
    assert response.output_text and response.model == SERVED_NAME
    assert response.incomplete_details.reason == "max_output_tokens"
    assert raw.headers["x-pilothouse-decision-id"] == mark(response)["decision_id"]
    assert raw.headers["x-pilothouse-revision"] == mark(response)["revision"]
    assert raw.headers["x-pilothouse-prompt-action"] == "allow"
    assert mark(response)["action"] == "allow"
    assert 0 < mark(response)["scores"]["vary/output"] < 1
    assert {(each["policy"], each["result"]) for each in mark(response)["rules"]} == {
        ("watch", "would_block"),
        ("watch", "flagged"),
    }


def test_it_says_and_scores_what_a_chat_does(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model=SERVED_NAME, messages=MESSAGES, max_tokens=TOKENS, temperature=0
    )
    [choice] = chat.choices
    response = create(client)
    assert response.output_text == choice.message.content
    told = choice.model_extra["pilothouse"]
    assert mark(response).items() >= told.items()
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens


def test_streamed_and_whole_responses_say_the_same(client: OpenAI) -> None:
    whole = create(client, include=LOGPROBS, top_logprobs=2)
    events, response = streamed(client, include=LOGPROBS, top_logprobs=2)
    assert deltas(events) == response.output_text == whole.output_text
    plain = {"decision_id", "revision"}
    assert {name: each for name, each in mark(response).items() if name not in plain} == {
        name: each for name, each in mark(whole).items() if name not in plain
    }
    assert [each.type for each in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert {**mark(events[0].response)} == {name: mark(response)[name] for name in plain}
    [part] = response.output[0].content
    assert len(part.logprobs) == TOKENS == len(whole.output[0].content[0].logprobs)


def test_the_clients_own_helper_follows_a_stream(client: OpenAI) -> None:
    with client.responses.stream(
        model=f"{SERVED_NAME}:plain", input=ASKED, max_output_tokens=TOKENS
    ) as stream:
        kinds = [each.type for each in stream]
        response = stream.get_final_response()
    assert kinds[-1] == "response.completed" and response.output_text
    assert response.model == "small:plain" and mark(response)["steered"] == {"nudge": TOKENS - 1}


def test_the_requests_own_field_steers_and_asks_for_scores(client: OpenAI) -> None:
    plain = create(client).output_text
    steer = [{"vector": "nudge", "scale": STRONG}]
    field = {"pilothouse": {"steer": steer, "scores": "tokens", "probes": ["vary"]}}
    response = create(client, extra_body=field)
    assert response.output_text != plain
    assert len(mark(response)["token_scores"]) >= TOKENS - 1
    with pytest.raises(BadRequestError) as caught:
        create(client, extra_body={"pilothouse": {"no": 1}})
    assert caught.value.body["param"] == "pilothouse.no"  # type: ignore[index]


@pytest.mark.parametrize("policy", ENDING)
def test_a_blocked_response_is_incomplete_by_content_filter(client: OpenAI, policy: str) -> None:
    response = create(client, policy, include=LOGPROBS, top_logprobs=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "content_filter")
    assert response.output_text == "" and refusals(response) == [MESSAGE]
    assert mark(response)["action"] == "block" and response.model == f"{SERVED_NAME}:{policy}"
    assert response.usage.input_tokens > 0


@pytest.mark.parametrize("policy", ENDING)
def test_a_blocked_stream_says_the_refusal_and_nothing_else(client: OpenAI, policy: str) -> None:
    events, response = streamed(client, policy, include=LOGPROBS, top_logprobs=2)
    assert events[-1].type == "response.incomplete" and deltas(events) == ""
    said = [each.delta for each in events if each.type == "response.refusal.delta"]
    assert said == [MESSAGE] == refusals(response)
    assert response.incomplete_details.reason == "content_filter"
    assert mark(response)["action"] == "block"


@pytest.mark.parametrize("policy", ENDING)
@pytest.mark.parametrize("stream", [False, True])
def test_no_word_of_a_blocked_answer_stands_in_any_byte(
    small_server: ServerProcess, policy: str, stream: bool
) -> None:
    body = {
        "input": ASKED,
        "max_output_tokens": 40,
        "temperature": 0,
        "stream": stream,
        "include": LOGPROBS,
        "top_logprobs": 3,
        "enable_response_messages": True,
        "ignore_eos": True,
    }
    plain, blocked = (
        httpx.post(f"{small_server.url}/v1/responses", json=body | {"model": name}, timeout=60)
        for name in (SERVED_NAME, f"{SERVED_NAME}:{policy}")
    )
    [last] = [line for line in plain.text.splitlines() if '"output_messages":[{' in line]
    response = json.loads(last.removeprefix("data: "))
    response = response.get("response", response)
    words = [each["token"] for each in response["output"][0]["content"][0]["logprobs"]]
    assert len(words) > 20 and response["output_messages"][0]["message"] not in blocked.text
    assert blocked.status_code == 200 and '"logprob"' not in blocked.text
    assert "".join(words[:3]) not in blocked.text.replace(ASKED, "")
    assert '"output_messages":null' in blocked.text or not stream


def test_a_late_block_streams_what_was_cleared_and_no_more(client: OpenAI) -> None:
    plain = create(client, include=LOGPROBS)
    words = [each.token for each in plain.output[0].content[0].logprobs]
    events, response = streamed(client, "output-late", include=LOGPROBS)
    assert deltas(events) == "".join(words[:LEAKED_TOKENS])
    assert response.output_text == "".join(words[:LEAKED_TOKENS])
    assert [each.status for each in response.output] == ["incomplete", "incomplete"]
    assert refusals(response) == [MESSAGE]
    assert len(response.output[0].content[0].logprobs) == LEAKED_TOKENS
    whole = create(client, "output-late")
    assert whole.output_text == "" and refusals(whole) == [MESSAGE]
    assert whole.usage.output_tokens == LEAKED_TOKENS


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_prompt_as_error_is_a_400_before_any_header(client: OpenAI, stream: bool) -> None:
    with pytest.raises(BadRequestError) as caught:
        create(client, "prompt-error", stream=stream)
    body, headers = caught.value.body, caught.value.response.headers
    assert isinstance(body, dict)
    assert (body["code"], body["param"], body["message"]) == ("content_filter", "prompt", MESSAGE)
    assert headers["x-should-retry"] == "false"
    assert headers["x-pilothouse-prompt-action"] == "block"


@pytest.mark.parametrize("policy", ["prompt-respond", "output-respond", "final-respond"])
def test_a_canned_response_is_a_response(client: OpenAI, policy: str) -> None:
    whole = create(client, policy)
    _, response = streamed(client, policy)
    for each in (whole, response):
        assert (each.status, each.output_text, each.incomplete_details) == (
            "completed",
            CANNED,
            None,
        )
        assert mark(each)["action"] == "respond"


@pytest.mark.parametrize("policy", ["final-passes", "output-passes", "logs"])
def test_a_guarded_response_that_passes_is_the_plain_one(client: OpenAI, policy: str) -> None:
    plain, guarded = create(client), create(client, policy)
    events, response = streamed(client, policy)
    assert plain.output_text == guarded.output_text == response.output_text == deltas(events)


def test_a_rule_that_steers_changes_the_answer(client: OpenAI) -> None:
    steered = create(client, "steers")
    assert mark(steered)["action"] == "steer" and steered.output_text != create(client).output_text


def test_a_refusal_can_be_sent_back_as_it_came(client: OpenAI) -> None:
    blocked = create(client, "output-refusal")
    items = [*MESSAGES, *(each.model_dump() for each in blocked.output), *MESSAGES]
    response = create(client, input=items, extra_body={"enable_response_messages": True})
    assert MESSAGE in response.model_extra["input_messages"][0]["message"]


def test_a_constrained_response_follows_its_schema(client: OpenAI) -> None:
    shape = {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "reply", "schema": shape, "strict": True}
    for policy in (None, "final-passes"):
        response = create(client, policy, text={"format": form}, max_output_tokens=60)
        assert json.loads(response.output_text) == {"a": "b"}
    blocked = create(client, "prompt-refusal", text={"format": form})
    assert refusals(blocked) == [MESSAGE]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"extra_body": {"messages": MESSAGES}}, "messages"),
        ({"extra_body": {"kv_transfer_params": {"a": 1}}}, "kv_transfer_params"),
    ],
)
def test_what_cannot_be_governed_is_a_400(client: OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        create(client, **fields)
    assert caught.value.param == param and caught.value.code == "pilothouse_invalid_request"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_output_tokens": "many"},
        {"model": "nothing"},
        {"input": [{"type": "nothing"}]},
        {"max_output_tokens": 0},
        {"input": "a " * 2000},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_vllms_own_errors_pass(client: OpenAI, fields: Any, stream: bool) -> None:
    with pytest.raises(APIStatusError) as caught:
        create(client, "prompt-refusal", stream=stream, **fields)
    assert caught.value.status_code in (400, 404)


def test_nothing_is_kept_to_come_back_to(client: OpenAI) -> None:
    response = create(client)
    for call in (client.responses.retrieve, client.responses.cancel):
        with pytest.raises(APIStatusError) as caught:
            call(response.id)
        assert caught.value.status_code == 403
