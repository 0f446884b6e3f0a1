"""A check over HTTP on small models: whose rules judge what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.attacks.ruled_server import FLAGS, MODEL, make_demo_house
from tests.support.servers.checks import (
    CHECK,
    QUESTION,
    chat,
    check,
    is_ended,
    post,
    texts,
    user,
)
from tests.support.servers.server_process import ServerProcess, free_port, started
from tests.support.servers.tiny_deployment import (
    CANNED,
    MESSAGE,
    PROXY_ADDRESS,
    SERVED_NAME,
    TENANT,
    TENANT_HEADER,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The demo's model with one enforced rule of each phase, picked by profile."""
    folder = tmp_path_factory.mktemp("ruled")
    config = make_demo_house(folder)
    port = free_port()
    words = ["serve", str(MODEL), f"--pilothouse-config={config}", "--served-model-name", "demo"]
    words += ["--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    with started([*words, *FLAGS], port, folder / "server.txt", {}) as server:
        yield server


def test_output_and_final_rules_judge_a_given_answer_as_one_of_the_models(
    ruled: ServerProcess,
) -> None:
    num_flagged = num_compared = 0
    for text in texts("forbidden", "jailbroken", "benign", "known", count=4):
        said = chat(ruled, model="demo", messages=[user(text)])["message"]["content"]
        for name in ("demo:output", "demo:final"):
            ended = is_ended(chat(ruled, model=name, messages=[user(text)]))
            item = {"text": text, "answer": said}
            [result] = check(ruled, model=name, input=item)["results"]
            assert result["flagged"] is ended, (name, text, said)
            num_flagged += ended
            num_compared += 1
    assert num_flagged >= 6 and num_compared - num_flagged >= 6


def test_an_answer_is_judged_whatever_its_question_was(ruled: ServerProcess) -> None:
    """The rules of the prompt end a request, and no check: the answer behind it is looked at."""
    barred = texts("forbidden", count=1)[0]
    found = check(
        ruled,
        model="demo:prompt",
        input=[{"text": barred}, {"text": barred, "answer": "i do not know."}],
    )
    assert [each["flagged"] for each in found["results"]] == [True, False]
    assert [each["direction"] for each in found["results"]] == ["prompt", "answer"]


@pytest.mark.parametrize(
    ("policy", "item", "action", "message"),
    [
        ("prompt-refusal", {"text": "the tide"}, "block", MESSAGE),
        ("prompt-error", {"text": "the tide"}, "block", MESSAGE),
        ("prompt-respond", {"text": "the tide"}, "respond", CANNED),
        ("prompt-refusal", {"text": "the tide", "answer": "comes in"}, "allow", None),
        ("output-refusal", {"text": "the tide"}, "allow", None),
        ("output-refusal", {"answer": "comes in"}, "block", MESSAGE),
        ("output-respond", {"text": "the tide", "answer": "comes in"}, "respond", CANNED),
        ("final-refusal", {"text": "the tide", "answer": "comes in"}, "block", MESSAGE),
        ("final-refusal", {"messages": [QUESTION]}, "allow", None),
        ("plain", {"text": "the tide", "answer": "comes in"}, "allow", None),
    ],
)
def test_each_phase_judges_its_direction_alone(
    small_server: ServerProcess, policy: str, item: dict[str, Any], action: str, message: Any
) -> None:
    found = check(small_server, model=f"{SERVED_NAME}:{policy}", input=item)
    [result] = found["results"]
    assert (result["action"], result["message"]) == (action, message)
    assert found["flagged"] is (action != "allow")
    assert found["model"] == f"{SERVED_NAME}:{policy}"


def test_a_model_that_is_not_there_is_a_404_whoever_asks(ruled: ServerProcess) -> None:
    """A profile whose name is misspelt would leave its policies out."""
    for body in ({"input": "a"}, {"input": [{"answer": "b"}]}):
        answer = post(ruled, CHECK, {"model": "demo:promt"} | body)
        assert answer.status_code == 404 and answer.json()["error"]["param"] == "model"


def test_a_named_subset_leaves_the_others_out_and_what_does_not_apply_is_refused(
    small_server: ServerProcess,
) -> None:
    model = f"{SERVED_NAME}:prompt-refusal"
    whole = check(small_server, model=model, input="the tide")
    assert set(whole["policies"]) == {"prompt-refusal", "watch"}
    part = check(small_server, model=model, input="the tide", policies=["watch"])
    assert part["policies"] == ["watch"] and part["flagged"] is False
    for name in ("of-tenant", "nowhere", "output-refusal"):
        answer = post(small_server, CHECK, {"model": model, "input": "a", "policies": [name]})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "policies"


def test_a_tenants_policies_hold_for_its_checks(small_server: ServerProcess) -> None:
    url, body = f"{small_server.url}{CHECK}", {"input": "the tide"}
    transport = httpx.HTTPTransport(local_address=PROXY_ADDRESS)
    with httpx.Client(transport=transport, timeout=60) as proxy:
        assert proxy.post(url, json=body).json()["flagged"] is False
        answer = proxy.post(url, json=body, headers={TENANT_HEADER: TENANT}).json()
    assert answer["flagged"] is True


def test_a_check_is_counted_apart_from_requests(small_server: ServerProcess) -> None:
    model = f"{SERVED_NAME}:prompt-refusal"

    def counts() -> list[float]:
        return [
            small_server.metric("pilothouse_checks_total", contract="check", action="block"),
            small_server.metric("pilothouse_check_decisions_total", policy="prompt-refusal"),
            small_server.metric("pilothouse_requests_total"),
            small_server.metric("pilothouse_decisions_total"),
            small_server.metric("pilothouse_probe_score_count"),
        ]

    before = counts()
    check(small_server, model=model, input=["the tide", "the moor"])
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 2, 0, 0, 0]
    assert small_server.metric("pilothouse_checks_total", action="reject") >= 0
    assert httpx.get(f"{small_server.url}/pilothouse/v1/status").json()["live_requests"] == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input.0"),
        ({"input": "a", "pilothouse": {}}, "pilothouse"),
        ({"input": {"text": "a", "messages": [QUESTION]}}, "input.0"),
        ({"input": {"answer": "  "}}, "input.0"),
        ({"input": {"messages": []}}, "input.0.messages"),
        ({"input": {"messages": [{"role": "boss", "content": "a"}]}}, "input.0.messages.0.role"),
        ({"input": {"messages": [QUESTION], "vllm_xargs": {}}}, "input.0.vllm_xargs"),
        ({"input": "a", "policies": []}, "policies"),
        ({"input": "a", "scores": "tokens"}, "scores"),
        ({"input": ["a"] * 65}, "input"),
        ({"input": ["fine", "too long " * 600]}, "input.1"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_the_place(
    small_server: ServerProcess, body: dict[str, Any], param: str
) -> None:
    answer = post(small_server, CHECK, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["code"] == "pilothouse_invalid_request"


def test_what_is_no_check_is_refused_before_anything_runs(small_server: ServerProcess) -> None:
    assert post(small_server, CHECK, {"model": "nowhere", "input": "a"}).status_code == 404
    assert httpx.get(f"{small_server.url}{CHECK}").status_code == 405
    plain = httpx.post(f"{small_server.url}{CHECK}", content=b'{"input": "a"}')
    assert plain.status_code == 415
    broken = httpx.post(
        f"{small_server.url}{CHECK}",
        content=b'{"input": "\\ud800"}',
        headers={"content-type": "application/json"},
    )
    assert broken.status_code == 400, broken.text
    assert "valid Unicode" in broken.json()["error"]["message"]
    nan = httpx.post(
        f"{small_server.url}{CHECK}",
        content=b'{"input": NaN}',
        headers={"content-type": "application/json"},
    )
    assert nan.status_code == 400
    assert "Traceback" not in small_server.log.read_text(errors="replace")


def test_litellms_guardrail_blocks_in_the_rules_words(small_server: ServerProcess) -> None:
    path = "/beta/litellm_basic_guardrail_api"

    def ask(policy: str, **body: Any) -> Any:
        parameters = {"additional_provider_specific_params": {"model": f"{SERVED_NAME}:{policy}"}}
        common = {"litellm_call_id": "c", "request_data": {"user_api_key_hash": "h"}, "tools": None}
        answer = post(small_server, path, common | parameters | body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    blocked = {"action": "BLOCKED", "blocked_reason": MESSAGE}
    said = {"texts": ["the tide"]}
    assert ask("prompt-refusal", input_type="request", **said) == blocked
    assert ask("prompt-refusal", input_type="response", **said) == {"action": "NONE"}
    assert ask("output-refusal", input_type="response", **said) == blocked
    assert ask("output-refusal", input_type="request", **said) == {"action": "NONE"}
    assert ask("output-refusal", input_type="response", texts=["", " "]) == {"action": "NONE"}
    assert ask("prompt-refusal", input_type="request", texts=[]) == {"action": "NONE"}
    assert ask("plain", input_type="request", texts=None) == {"action": "NONE"}
    picture = {"input_type": "request", "texts": ["a"], "images": ["AA=="]}
    assert post(small_server, path, picture).status_code == 400
    assert post(small_server, path, {"input_type": "tool", "texts": []}).status_code == 400


def test_a_check_leaves_no_word_of_its_texts_in_the_log(small_server: ServerProcess) -> None:
    word = "quetzalfeather"
    check(small_server, input=[word, {"text": word, "answer": word}])
    post(small_server, CHECK, {"input": word, "policies": [word]})
    assert word not in small_server.log.read_text(errors="replace")


def test_nemos_checks_are_of_the_question_and_of_the_answer(ruled: ServerProcess) -> None:
    barred, harmless = texts("forbidden", count=1)[0], texts("benign", count=1)[0]

    def ask(*messages: Any, model: str = "demo:prompt", **guardrails: Any) -> httpx.Response:
        body = {"model": model, "messages": messages, "top_p": 1, "guardrails": guardrails}
        return post(ruled, "/v1/guardrail/checks", body)

    found = ask(user(barred)).json()
    assert found["status"] == "blocked"
    assert found["rails_status"] == {"at-prompt/rule": {"status": "blocked"}}
    assert ask(user(harmless)).json()["status"] == "success"
    assert ask(user(barred), model="meta/llama").json()["rails_status"] == {}
    said = {"role": "assistant", "content": "so be it."}
    assert ask(user(barred), said, config_id="at-prompt").json()["status"] == "blocked"
    assert ask(said).json()["status"] == "success"
    assert ask(user(barred), said, model="demo:output").json()["status"] == "success"
    assert ask(user("a"), config_id="nowhere").status_code == 404
    assert ask(user("a"), config={"rails": {}}).status_code == 422
    assert ask().status_code == 422
