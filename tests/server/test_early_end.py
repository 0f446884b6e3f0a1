"""However a request asks to be answered: one that a rule ends is answered, and as vLLM would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.page_examples import curl_blocks, pasted
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.tiny_deployment import MESSAGE, SERVED_NAME

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "the tide"}]
POLICIES = (
    "prompt-refusal",
    "prompt-error",
    "prompt-respond",
    "output-refusal",
    "output-late",
    "output-respond",
    "final-refusal",
    "final-respond",
    "final-passes",
)
OPTIONS = {"include_usage": True, "continuous_usage_stats": True}

SHARED = {
    "stream": st.booleans(),
    "max_tokens": st.sampled_from([1, 6]),
    "n": st.sampled_from([1, 2, "2", 2.0]),
    "echo": st.booleans(),
    "prompt_logprobs": st.sampled_from([None, 0, 2]),
    "return_token_ids": st.booleans(),
    "return_tokens_as_token_ids": st.booleans(),
    "stop": st.sampled_from([None, ["e"]]),
    "min_tokens": st.sampled_from([0, 1]),
    "stream_interval": st.sampled_from([None, 3]),
    "ignore_eos": st.booleans(),
    "usage": st.sampled_from([None, {}, {"include_usage": True}, OPTIONS]),
}
OF_CHAT = SHARED | {
    "logprobs": st.booleans(),
    "top_logprobs": st.sampled_from([0, 2]),
    "return_prompt_text": st.booleans(),
    "max_completion_tokens": st.sampled_from([None, 2]),
    "include_reasoning": st.booleans(),
}
OF_COMPLETIONS = SHARED | {
    "logprobs": st.sampled_from([None, 0, 2, False]),
    "max_tokens": st.sampled_from([0, 1, 6, None]),
    "prompt": st.sampled_from(["the tide", ["the tide", "the boats"], [5, 6, 7], [[5, 6], [7]]]),
}


def post(server: ServerProcess, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(server.url + path, json=body, headers=headers, timeout=120)


def chunks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    *events, done = [each for each in answer.text.split("\n\n") if each.startswith("data: ")]
    assert done == "data: [DONE]"
    return [json.loads(each.removeprefix("data: ")) for each in events]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_request_that_a_rule_ends_is_an_error_of_the_server(
    small_server: ServerProcess, path: str, data: st.DataObject
) -> None:
    policy = data.draw(st.sampled_from(POLICIES))
    of_path = OF_CHAT if path == CHAT else OF_COMPLETIONS
    names = data.draw(st.lists(st.sampled_from(sorted(of_path)), max_size=7, unique=True))
    fields = {name: data.draw(of_path[name]) for name in names}
    usage = fields.pop("usage", None)
    if fields.get("stream") and usage is not None:
        fields["stream_options"] = usage
    if not fields.get("logprobs"):
        fields.pop("top_logprobs", None)
    first = {"messages": MESSAGES} if path == CHAT else {"prompt": "the tide"}
    body = first | {"model": f"{SERVED_NAME}:{policy}", "max_tokens": 4} | fields
    answer = post(small_server, path, body)
    assert answer.status_code in (200, 400), (body, answer.text)
    if answer.status_code == 400:
        assert answer.json()["error"]["code"] in (
            "content_filter",
            "pilothouse_invalid_request",
            400,
        )
        return
    n = int(body.get("n", 1))
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and isinstance(prompt[0], str | list)
    expected = set(range(n * (len(prompt) if several else 1)))
    if not body.get("stream"):
        choices = answer.json()["choices"]
    else:
        chunks = chunks_of(answer)
        assert not [each for each in chunks if "error" in each], (body, answer.text)
        choices = [
            choice
            for chunk in chunks
            for choice in chunk["choices"]
            if choice.get("finish_reason") is not None
        ]
    assert {each["index"] for each in choices} == expected, (body, answer.text)
    assert len(choices) == len(expected), (body, answer.text)
    blocked = {each["finish_reason"] for each in choices} == {"content_filter"}
    assert blocked or ("refusal" not in policy and "error" not in policy), (body, answer.text)
    assert "pilothouse:block" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [2, "2", 2.0])
def test_every_choice_that_vllm_makes_is_judged(
    small_server: ServerProcess, stream: bool, n: Any
) -> None:
    body = {
        "model": f"{SERVED_NAME}:final-refusal",
        "prompt": ["the tide", "the boats"],
        "n": n,
        "max_tokens": 4,
        "stream": "true" if stream else 0,
        "temperature": 1,
    }
    answer = post(small_server, COMPLETIONS, body)
    found = chunks_of(answer) if stream else [answer.json()]
    choices = [choice for each in found for choice in each["choices"]]
    assert sorted(each["index"] for each in choices) == [0, 1, 2, 3]
    assert {(each["text"], each["finish_reason"]) for each in choices} == {("", "content_filter")}


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_blocked_with_echo_and_logprobs_is_blocked(
    small_server: ServerProcess, stream: bool
) -> None:
    body = {
        "model": f"{SERVED_NAME}:prompt-refusal",
        "prompt": "the tide",
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "stream": stream,
    }
    answer = post(small_server, COMPLETIONS, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("policy", ["prompt-refusal", "output-refusal", "final-refusal"])
@pytest.mark.parametrize("options", [None, {"include_usage": True}, OPTIONS])
def test_chunks_of_ours_have_the_keys_of_vllms(
    small_server: ServerProcess, path: str, policy: str, options: Any
) -> None:
    first = {"messages": MESSAGES} if path == CHAT else {"prompt": ["the tide", "the boats"]}
    body = first | {"max_tokens": 3, "stream": True}
    body |= {} if options is None else {"stream_options": options}
    plain, ours = (
        chunks_of(post(small_server, path, body | {"model": name}))
        for name in (SERVED_NAME, f"{SERVED_NAME}:{policy}")
    )

    def keys(chunks: list[dict[str, Any]], *, finishing: bool) -> tuple[set[str], set[str]]:
        (chunk, *_) = [
            each
            for each in reversed(chunks)
            for choice in each["choices"]
            if (choice.get("finish_reason") is not None) is finishing
        ]
        return set(chunk) - {"pilothouse"}, set(chunk["choices"][0]) - {"pilothouse"}

    assert keys(ours, finishing=True) == keys(plain, finishing=True)
    if path == CHAT:
        assert keys(ours, finishing=False) == keys(plain, finishing=False)
    assert [set(each) for each in ours if not each["choices"]] == [
        set(each) for each in plain if not each["choices"]
    ]


@pytest.mark.parametrize("asked", ["gzip", "gzip, br", "*"])
def test_an_inner_middleware_that_compresses_does_not_reach_the_gate(
    small_server: ServerProcess, asked: str
) -> None:
    long = {"messages": MESSAGES, "max_tokens": 200, "logprobs": True, "ignore_eos": True}
    for policy, status in (("plain", 200), ("output-refusal", 200), ("prompt-error", 400)):
        body = long | {"model": f"{SERVED_NAME}:{policy}"}
        answer = post(small_server, CHAT, body, **{"accept-encoding": asked})
        assert answer.status_code == status, answer.text
        assert "content-encoding" not in answer.headers
    headers = {"accept-encoding": asked}
    listed = httpx.get(f"{small_server.url}/v1/models", headers=headers).json()
    assert f"{SERVED_NAME}:plain" in {each["id"] for each in listed["data"]}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON", 200),
        ("application/json; charset=utf-8", 200),
        ("application/json;charset=latin-1", 200),
        ("application/json ;charset=utf-8", 415),
        ("application/vnd.api+json", 415),
        ("text/json", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonx", 415),
        ("", 415),
        (None, 415),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_is_not_refused_by_its_content_type_is_sealed(
    small_server: ServerProcess, path: str, kind: str | None, status: int
) -> None:
    first = {"messages": MESSAGES} if path == CHAT else {"prompt": "the tide"}
    body = json.dumps(first | {"model": SERVED_NAME, "max_tokens": 1}).encode()
    headers = {} if kind is None else {"content-type": kind}
    answer = httpx.post(small_server.url + path, content=body, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    assert ("pilothouse" in answer.json()) is (status == 200)


@pytest.mark.parametrize(
    "block", curl_blocks(of_the_real_model=False), ids=lambda block: str(block[:60])
)
def test_the_pages_own_curl_lines_are_read(
    small_server: ServerProcess, block: str, tmp_path: Path
) -> None:
    ran = pasted(block, small_server.port, tmp_path)
    answer = json.loads(ran.stdout)
    unknown = answer.get("error", {}).get("type") == "NotFoundError"  # the reader's own model
    assert "choices" in answer or unknown, ran.stdout


def test_a_refusal_that_comes_back_is_rendered_as_text(small_server: ServerProcess) -> None:
    def prompt_of(**turn: Any) -> str:
        asked = [*MESSAGES, {"role": "assistant", **turn}, {"role": "user", "content": "boats"}]
        body = {"model": SERVED_NAME, "messages": asked, "max_tokens": 1}
        body["return_prompt_text"] = True
        text: str = post(small_server, CHAT, body).json()["prompt_text"]
        return text

    assert prompt_of(content=None, refusal=MESSAGE) == prompt_of(content=MESSAGE)
    assert MESSAGE in prompt_of(content=None, refusal=MESSAGE)


def test_vllms_own_400_passes_where_it_cannot_read_a_body(small_server: ServerProcess) -> None:
    body = {"model": f"{SERVED_NAME}:prompt-refusal", "messages": MESSAGES, "n": "many"}
    answer = post(small_server, CHAT, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "body.n")
    assert "pilothouse" not in answer.json()
