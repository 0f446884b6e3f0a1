"""The gate reads what vLLM reads: over every field it decides on, and JSON of every type."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import construct_input_messages
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.renderers.inputs.preprocess import prompt_to_seq
from vllm.sampling_params import RequestOutputKind

from pilothouse.errors import RequestError
from pilothouse.policy.endpoint_names import PATHS, EndpointName
from pilothouse.server.answers import encode
from pilothouse.server.endpoints.registry import ENDPOINTS
from pilothouse.server.request_schema import RequestFields, Unreadable

NOT_COMPARED = {"vllm", "messages", "prompts", "constrained", "may_call"}
"""What is read of a request beside its fields; tests/server/test_client_text.py is about it."""
COMPARED = {each.name for each in fields(RequestFields)} - NOT_COMPARED
"""Everything that the gate decides on. docs/explanation/security.md tells how many there are."""
TEMPLATE_KEYS = ("tools", "documents", "add_generation_prompt", "chat_template", "enable_thinking")

# What a value of a field may be: of the right kind, nearly, and not at all.
TEXTS = st.sampled_from(
    ["", "a", "0", "1", "2", "2.0", "true", "False", "yes", "off", "auto", " 1"]
)
NUMBERS = st.sampled_from([0, 1, 2, 3, 129, -1, 10**20, 0.0, 1.0, 2.0, 2.5, -1.0, 1e300])
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abn"), inner, max_size=2)
    ),
    max_leaves=5,
)
CONTENTS = SCALARS | st.just([{"type": "text", "text": "a"}]) | JSON
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", "judge"]) | SCALARS},
        optional={
            "content": CONTENTS,
            "refusal": SCALARS,
            "tool_calls": JSON,
            "name": SCALARS,
            "reasoning_content": SCALARS,
        },
    ),
    max_size=3,
)
PROMPTS = st.one_of(
    TEXTS,
    st.lists(TEXTS, max_size=3),
    st.lists(NUMBERS, max_size=3),
    st.lists(st.lists(NUMBERS, max_size=2), max_size=3),
    st.lists(SCALARS, max_size=3),
)
TRANSFER = st.sampled_from([{}, {"do_remote_prefill": True}, {"prompt_token_ids": [1]}]) | JSON
XARGS = st.dictionaries(
    st.sampled_from(["mine", "kv_transfer_params", "Pilothouse"]), JSON, max_size=2
)
KWARGS = st.dictionaries(st.sampled_from(TEMPLATE_KEYS), SCALARS, max_size=3)
OPTIONS = st.dictionaries(
    st.sampled_from(["include_usage", "continuous_usage_stats"]), SCALARS, max_size=2
)
OPTIONAL = {
    "model": SCALARS,
    "stream": SCALARS,
    "stream_options": OPTIONS | JSON,
    "n": SCALARS,
    "echo": SCALARS,
    "truncate_prompt_tokens": SCALARS,
    "logprobs": SCALARS,
    "top_logprobs": SCALARS,
    "prompt_logprobs": SCALARS,
    "prompt_embeds": TEXTS | st.lists(TEXTS, max_size=2) | JSON,
    "chat_template": SCALARS | JSON,
    "chat_template_kwargs": KWARGS | JSON,
    "add_generation_prompt": SCALARS,
    "continue_final_message": SCALARS,
    "use_beam_search": SCALARS,
    "kv_transfer_params": TRANSFER,
    "ec_transfer_params": TRANSFER,
    "vllm_xargs": XARGS | JSON,
    "max_tokens": SCALARS,
    "temperature": SCALARS,
    "seed": SCALARS,
    "structured_outputs": JSON,
    "response_format": JSON,
    "tools": JSON,
    "tool_choice": JSON,
    "unheard_of": JSON,
}
PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_text", "output_text", "refusal", "reasoning_text"])},
        optional={"text": SCALARS, "refusal": SCALARS, "annotations": st.just([])},
    ),
    max_size=2,
)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "developer"]) | SCALARS,
            "type": st.sampled_from(
                [
                    "message",
                    "reasoning",
                    "function_call",
                    "function_call_output",
                    "custom_tool_call",
                    "custom_tool_call_output",
                ]
            )
            | SCALARS,
            "content": SCALARS | PARTS | JSON,
            "status": st.sampled_from(["in_progress", "incomplete", "completed"]) | SCALARS,
            "id": TEXTS,
            "call_id": TEXTS,
            "name": TEXTS,
            "arguments": TEXTS,
            "output": SCALARS,
            "input": TEXTS,
            "summary": st.just([]) | JSON,
        },
    ),
    max_size=3,
)
OF_RESPONSES = {
    "model": SCALARS,
    "stream": SCALARS,
    "top_logprobs": SCALARS,
    "instructions": SCALARS,
    "include": st.lists(st.sampled_from(["message.output_text.logprobs", "a"]), max_size=2) | JSON,
    "chat_template_kwargs": KWARGS | JSON,
    "kv_transfer_params": TRANSFER,
    "ec_transfer_params": TRANSFER,
    "vllm_xargs": XARGS | JSON,
    "max_output_tokens": SCALARS,
    "temperature": SCALARS,
    "seed": SCALARS,
    "structured_outputs": JSON,
    "text": JSON,
    "tools": JSON,
    "tool_choice": JSON,
    "truncation": st.sampled_from(["auto", "disabled", "no"]),
    "store": SCALARS,
    "reasoning": JSON,
    "unheard_of": JSON,
}
FIRST = {
    "responses": {"input": TEXTS | ITEMS | JSON},
    "chat": {"messages": st.just([{"role": "user", "content": "a"}]) | MESSAGES | JSON},
    "completions": {"prompt": PROMPTS | JSON},
}


@st.composite
def bodies(draw: st.DrawFn, endpoint: EndpointName) -> dict[str, Any]:
    """A body with a few fields, so that most are read and what is wrong with one is not hidden."""
    fields = OF_RESPONSES if endpoint == "responses" else OPTIONAL
    names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True))
    chosen = FIRST[endpoint] | {name: fields[name] for name in names}
    return draw(st.fixed_dictionaries(chosen))


def told(request: Any) -> dict[str, Any]:
    """What vLLM does with a request: read off what it would give to engine and template."""
    found = {
        "model": request.model,
        "stream": bool(request.stream),
        "echo": bool(request.echo),
        "truncated": request.truncate_prompt_tokens is not None,
        "use_beam_search": request.use_beam_search,
        "kv_transfer_params": bool(request.kv_transfer_params),
        "ec_transfer_params": bool(request.ec_transfer_params),
        "xargs": request.vllm_xargs or {},
    }
    usage = request.stream_options
    found["include_usage"] = bool(usage and usage.include_usage)
    found["continuous_usage"] = bool(usage and usage.include_usage and usage.continuous_usage_stats)
    params = request.model_copy(update={"vllm_xargs": None}).to_sampling_params(16, {})
    assert (params.output_kind == RequestOutputKind.DELTA) == found["stream"]
    found |= {
        "num_per_prompt": params.n,
        "num_logprobs": params.logprobs,
        "num_prompt_logprobs": params.prompt_logprobs,
    }
    return found


def told_of_chat(request: ChatCompletionRequest) -> dict[str, Any]:
    template = request.build_chat_params(None, "auto")
    rest = template.with_defaults({"tokenize": False}).chat_template_kwargs
    return told(request) | {
        "roles": [each["role"] for each in request.messages],
        "add_generation_prompt": rest["add_generation_prompt"],
        "continue_final_message": rest["continue_final_message"],
        "chat_template": template.chat_template is not None,
        # The fields of the body come on top of the arguments, so that those keep no word.
        "template_kwargs": {
            name: value
            for name, value in rest.items()
            if name in (request.chat_template_kwargs or {})
            and name not in ("add_generation_prompt", "continue_final_message")
        },
    }


def told_of_completions(request: CompletionRequest) -> dict[str, Any]:
    given = [each for each in (request.prompt_embeds, request.prompt) if each is not None]
    return told(request) | {
        "num_prompts": sum(len(prompt_to_seq(each)) for each in given),
        "prompt_embeds": request.prompt_embeds is not None,
    }


def told_of_responses(request: ResponsesRequest) -> dict[str, Any]:
    template = request.build_chat_params(None, "auto")
    rest = template.with_defaults({"tokenize": False}).chat_template_kwargs
    messages = construct_input_messages(
        request_instructions=request.instructions, request_input=request.input
    )
    params = request.model_copy(update={"vllm_xargs": None}).to_sampling_params(16, {})
    assert params.n == 1 and params.prompt_logprobs is None
    assert not request.store
    return {
        "model": request.model,
        "stream": params.output_kind == RequestOutputKind.DELTA,
        "kv_transfer_params": bool(request.kv_transfer_params),
        "ec_transfer_params": bool(request.ec_transfer_params),
        "xargs": request.vllm_xargs or {},
        "num_logprobs": params.logprobs,
        "roles": [str(each["role"]) for each in messages],
        "add_generation_prompt": rest["add_generation_prompt"],
        "continue_final_message": rest["continue_final_message"],
        "truncated": request.build_tok_params(ModelConfig).truncate_prompt_tokens is not None,
    }


class ModelConfig:
    """As much of vLLM's as bounds on a prompt need."""

    max_model_len = 512


@pytest.fixture(scope="module")
def vllm_routes() -> TestClient:
    """vLLM's request models behind the routing and the error handlers that it has them behind."""
    app = FastAPI()
    init_exception_handler(app)
    app.state.args = type("Args", (), {"log_error_stack": False})()

    @app.post(PATHS["chat"])
    async def chat(request: ChatCompletionRequest) -> dict[str, Any]:
        return told_of_chat(request)

    @app.post(PATHS["completions"])
    async def completions(request: CompletionRequest) -> dict[str, Any]:
        return told_of_completions(request)

    @app.post(PATHS["responses"])
    async def responses(request: ResponsesRequest) -> dict[str, Any]:
        return told_of_responses(request)

    # FastAPI resolves annotations by module globals, and these stand in this one.
    return TestClient(app, raise_server_exceptions=False)


def sent(client: TestClient, endpoint: EndpointName, body: dict[str, Any]) -> Any:
    headers = {"content-type": "application/json"}
    return client.post(PATHS[endpoint], content=encode(body), headers=headers)


def gates(read: RequestFields) -> dict[str, Any]:
    """What the gate reads, in JSON's terms."""
    found = {name: getattr(read, name) for name in COMPARED}
    found["roles"] = list(found["roles"])
    found["template_kwargs"] = {
        name: value
        for name, value in found["template_kwargs"].items()
        if name not in ("add_generation_prompt", "continue_final_message")
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


@pytest.mark.parametrize("endpoint", PATHS)
@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_the_gate_reads_every_field_as_vllm_reads_it(
    vllm_routes: TestClient, endpoint: EndpointName, data: st.DataObject
) -> None:
    raw = data.draw(bodies(endpoint))
    body = copy.deepcopy(raw)
    try:
        read = ENDPOINTS[endpoint].read(body)
    except Unreadable:
        event("vLLM refuses it")
        assert 400 <= sent(vllm_routes, endpoint, body).status_code < 500
        return
    except RequestError as error:
        if "wrong kind" in str(error):
            event("vLLM would break")
            assert sent(vllm_routes, endpoint, raw).status_code >= 400
        else:
            event("not governed")
        return
    try:
        answer = sent(vllm_routes, endpoint, body)
    except ValueError:
        event("not JSON any more")  # a NaN that was a text: the gate refuses what it cannot encode
        return
    if answer.status_code != 200:
        event("vLLM refuses what the engine would have to do")
        assert answer.status_code < 500
        return
    event("read")
    theirs = answer.json()
    assert theirs == {name: value for name, value in gates(read).items() if name in theirs}


def test_no_field_is_decided_on_without_being_compared() -> None:
    chat = ChatCompletionRequest(messages=[{"role": "user", "content": "a"}])
    completions = CompletionRequest(prompt="a")
    assert set(told_of_chat(chat)) | set(told_of_completions(completions)) == COMPARED
    assert len(COMPARED) == 20


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({"n": "2"}, {"n": 2}),
        ({"n": 2.0}, {"n": 2}),
        ({"stream": "true"}, {"stream": True}),
        ({"stream": 1}, {"stream": True}),
        ({"echo": "yes", "logprobs": False}, {"echo": True, "logprobs": 0}),
        ({"prompt_logprobs": False}, {"prompt_logprobs": 0}),
        ({"use_beam_search": "false"}, {"use_beam_search": False}),
        ({"prompt_embeds": ""}, {"prompt_embeds": None}),
    ],
)
def test_what_was_read_is_what_is_sent_on(asked: dict[str, Any], written: dict[str, Any]) -> None:
    body = {"prompt": "a", "theirs": "2"} | asked
    ENDPOINTS["completions"].read(body)
    assert body == {"prompt": "a", "theirs": "2"} | written
    for name, value in written.items():
        assert type(body[name]) is type(value)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", 1),
        (["a", "b"], 2),
        ([1, 2], 1),
        ([[1], [2]], 2),
        ([], 0),
        (["5", 6], 1),
        ([True, False], 1),
        (["1", "2"], 2),
        ([1.0, 2.0], 1),
    ],
)
def test_prompts_are_counted_as_vllm_counts_them(prompt: Any, expected: int) -> None:
    assert ENDPOINTS["completions"].read({"prompt": prompt}).num_prompts == expected


def test_a_chats_echo_asks_for_logprobs_of_the_prompt_by_itself() -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "echo": True}
    assert ENDPOINTS["chat"].read(body).num_prompt_logprobs == 0
    assert ENDPOINTS["completions"].read({"prompt": "a", "echo": True}).num_prompt_logprobs is None


def test_a_value_that_a_validator_trips_over_is_a_400_of_ours() -> None:
    with pytest.raises(RequestError, match="wrong kind"):
        ENDPOINTS["completions"].read({"prompt": "a", "structured_outputs": "regex"})


REFUSED = {"role": "assistant", "content": None, "refusal": "No."}


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (REFUSED, "No."),
        (REFUSED | {"content": ""}, "No."),
        ({"role": "assistant", "refusal": "No."}, "No."),
        (REFUSED | {"content": "Yes."}, "Yes."),
        (REFUSED | {"refusal": None}, None),
        (REFUSED | {"refusal": 5, "content": "a"}, "a"),
        ({"role": "user", "content": "a", "refusal": "No."}, "a"),
    ],
)
def test_a_refusal_in_the_history_is_the_assistants_text(message: Any, content: Any) -> None:
    body = {"messages": [{"role": "user", "content": "a"}, dict(message)]}
    read = ENDPOINTS["chat"].read(body)
    assert body["messages"][1]["content"] == content
    assert read.vllm.messages[1]["content"] == content
