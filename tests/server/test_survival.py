"""Whatever a client sends, it gets an answer in the 400s or a real one, and the engine lives."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import httpx
import pytest

from pilothouse.limits import BYTES_PER_ID, SMALLEST_TOKEN_IDS
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.tiny_deployment import PROFILES, SERVED_NAME

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

JSON = {"content-type": "application/json"}
PATHS = ("/v1/chat/completions", "/v1/completions")
MAX_BODY_BYTES = SMALLEST_TOKEN_IDS * BYTES_PER_ID
"""Of a server whose context is short."""
GOOD = {
    "model": SERVED_NAME,
    "messages": [{"role": "user", "content": "the tide"}],
    "prompt": "the tide",
    "max_tokens": 3,
}


def send(server: ServerProcess, path: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=content, headers=JSON, timeout=60)


def alive(server: ServerProcess) -> bool:
    answer = send(server, PATHS[0], json.dumps(GOOD).encode())
    ready = httpx.get(f"{server.url}/pilothouse/v1/ready", timeout=30)
    return answer.status_code == 200 and ready.status_code == 200


BROKEN = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"\xff\xfe\x00",
    b"{" * 8_000,
    b"[" * 30_000,
    b'{"a":' * 6_000,
    b'{"temperature": NaN}',
    b'{"max_tokens": 1e999}',
    b'{"messages": "\\ud800"}',
    b'{"max_tokens": ' + b"9" * 5000 + b"}",
    b'{"model": 1, "model": "small"}',
    b'{"vllm_xargs": {"pilothouse\\ud800": 1}}',
    b'{"pilothouse": {"\\ud800": 1}}',
    b'{"pilothouse": {"steer": "\\ud800"}}',
    b'{"\\udfff": 1}',
    b'{"n": "\\ud83d"}',
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_body_is_a_400(small_server: ServerProcess, path: str, content: bytes) -> None:
    answer = send(small_server, path, content)
    assert answer.status_code == 400, answer.text[:300]
    assert answer.json()["error"]["message"]


NAMELESS = b'{"model": "\\ud800", "prompt": "a", "tokens": [5]}'


def test_a_broken_body_is_a_400_where_no_model_runs(small_server: ServerProcess) -> None:
    for path, content in product(("/tokenize", "/detokenize"), [*BROKEN[1:], NAMELESS]):
        answer = send(small_server, path, content)
        assert answer.status_code == 400, (path, content[:40], answer.text[:300])
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in PATHS),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("POST", "/ping"),
        ("POST", "/pilothouse/v1/reload"),
        ("PUT", "/pilothouse/v1/vectors/calm"),
        ("PUT", "/pilothouse/v1/saes/calm"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
def test_a_body_too_long_is_refused_at_every_door_however_it_is_announced(
    small_server: ServerProcess, method: str, path: str, kind: str
) -> None:
    content = json.dumps(GOOD | {"prompt": "a" * MAX_BODY_BYTES}).encode()
    headers = {"content-type": kind} if kind else {}
    url = f"{small_server.url}{path}"

    def pieces() -> Any:
        for start in range(0, len(content), 1 << 14):
            yield content[start : start + (1 << 14)]

    for body in (content, pieces()):
        answer = httpx.request(method, url, content=body, headers=headers, timeout=60)
        message = answer.json()["error"]["message"]
        if path in PATHS and kind != JSON["content-type"]:  # refused before it is read
            assert answer.status_code == 415
            assert "content-type" in message
        else:
            assert answer.status_code == 413
            assert "limits.max_body_kib" in message


@pytest.mark.parametrize("section", ["vectors", "saes"])
def test_a_path_that_is_no_path_is_refused_as_any_other_mistake(
    small_server: ServerProcess, section: str
) -> None:
    for path in (rb"\ud800", rb"a\u0000b"):
        answer = httpx.put(
            f"{small_server.url}/pilothouse/v1/{section}/calm",
            content=b'{"path": "%s"}' % path,
            headers=JSON,
            timeout=60,
        )
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
    assert "Traceback" not in small_server.log.read_text(errors="replace")


def mangled(dice: random.Random) -> dict[str, Any]:
    """A good body with a few fields replaced by something odd."""
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        1 << 62,
        1.5,
        -1e308,
        "",
        "x" * 300,
        "\u0000",
        "\U0001f6a2",
        [],
        {},
        [[]],
        [None],
        {"a": {"b": []}},
        [1, -2, 10**9],
        ["", ""],
        {"type": "json_object"},
        {"include": 3},
    ]
    fields = [
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "n",
        "stream",
        "stream_options",
        "stop",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "tools",
        "tool_choice",
        "response_format",
        "vllm_xargs",
        "cache_salt",
        "pilothouse",
        "echo",
        "min_tokens",
        "ignore_eos",
        "stop_token_ids",
        "bad_words",
        "priority",
        "request_id",
        "truncate_prompt_tokens",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template_kwargs",
        "structured_outputs",
        "prompt_logprobs",
        "return_token_ids",
        "suffix",
        "include_stop_str_in_output",
        "repetition_penalty",
        "allowed_token_ids",
        "stream_interval",
    ]
    body: dict[str, Any] = dict(GOOD)
    if dice.random() < 0.5:
        body["model"] = dice.choice(PROFILES)
    for name in dice.sample(fields, dice.randint(1, 4)):
        body[name] = dice.choice(odd)
    if dice.random() < 0.3:
        steer = {"vector": dice.choice(["nudge", *map(str, odd)]), "scale": dice.choice(odd)}
        body["pilothouse"] = {"steer": [steer], "scores": dice.choice(["tokens", "none", 3])}
    return body


def test_no_mangled_body_kills_the_engine(small_server: ServerProcess) -> None:
    seed = int(os.environ.get("PILOTHOUSE_FUZZ_SEED", "20261121"))
    dice = random.Random(seed)
    bodies = [(dice.choice(PATHS), json.dumps(mangled(dice)).encode()) for _ in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: send(small_server, *each), bodies))
    for (path, body), answer in zip(bodies, answers, strict=True):
        told = (seed, path, body, answer.text[:300])
        if answer.status_code >= 500:  # vLLM stumbles over some values by itself, and says so
            assert answer.status_code == 500, told
            assert answer.json()["error"]["type"] == "InternalServerError", told
    assert alive(small_server)


def test_many_requests_at_once_each_get_their_own_verdict(small_server: ServerProcess) -> None:
    expected = {
        "small:prompt-refusal": "content_filter",
        "small:output-refusal": "content_filter",
        "small:final-refusal": "content_filter",
        "small:output-passes": "length",
        "small:plain": "length",
        "small:steers": "length",
        "small:final-respond": "stop",
    }

    def ask(model: str) -> tuple[str, str, str]:
        body = GOOD | {"model": model, "max_tokens": 6, "temperature": 0}
        answer = send(small_server, PATHS[0], json.dumps(body).encode()).json()
        (choice,) = answer["choices"]
        return answer["pilothouse"]["decision_id"], model, choice["finish_reason"]

    models = [model for model in expected for _ in range(8)]
    random.Random(1).shuffle(models)
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(ask, models))
    assert len({decision for decision, _, _ in told}) == len(models)
    assert all(finish == expected[model] for _, model, finish in told)
    status = httpx.get(f"{small_server.url}/pilothouse/v1/status").json()
    assert status["live_requests"] == 0
