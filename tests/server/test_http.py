"""The gate in front of a real engine, over real HTTP, with the real openai client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, OpenAI, PermissionDeniedError

from pilothouse.server.routes import DENIED, RouteTable
from tests.support.artifacts.tiny_sae import FEATURE, LABEL, LOUD, MAX_ACT
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.tiny_deployment import (
    CANNED,
    KNOWN_ORIGIN,
    LEAKED_TOKENS,
    MESSAGE,
    SERVED_NAME,
    STRONG,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

MESSAGES: list[Any] = [{"role": "user", "content": "tell me of the keeper of the light"}]
TOKENS = 8


@pytest.fixture
def client(small_server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{small_server.url}/v1", api_key="none", max_retries=0)


def chat(client: OpenAI, policy: str | None = None, **changes: Any) -> Any:
    model = f"{SERVED_NAME}:{policy}" if policy else SERVED_NAME
    fields = {"model": model, "messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0}
    return client.chat.completions.create(**(fields | changes))


def complete(client: OpenAI, policy: str | None = None, **changes: Any) -> Any:
    model = f"{SERVED_NAME}:{policy}" if policy else SERVED_NAME
    fields = {"model": model, "prompt": "the tide", "max_tokens": TOKENS, "temperature": 0}
    return client.completions.create(**(fields | changes))


def post(server: ServerProcess, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=60)


def mark(thing: Any) -> dict[str, Any]:
    found: dict[str, Any] = thing.model_extra["pilothouse"]
    return found


def streamed(stream: Any) -> tuple[str, list[str], list[str], Any]:
    """Text, refusals, finish reasons and the last choice's mark."""
    text, refusals, finishes, last = "", [], [], None
    for chunk in stream:
        for choice in chunk.choices:
            if hasattr(choice, "delta"):
                text += choice.delta.content or ""
                if choice.delta.refusal:
                    refusals.append(choice.delta.refusal)
            else:
                text += choice.text
            if choice.finish_reason:
                finishes.append(choice.finish_reason)
                last = mark(choice)
    return text, refusals, finishes, last


def test_an_allowed_answer_carries_its_decision_and_scores(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=SERVED_NAME, messages=MESSAGES, max_tokens=TOKENS, temperature=0
    )
    answer = raw.parse()
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].message.content
    assert raw.headers["x-pilothouse-decision-id"] == mark(answer)["decision_id"]
    assert raw.headers["x-pilothouse-revision"] == mark(answer)["revision"]
    assert raw.headers["x-pilothouse-prompt-action"] == "allow"
    told = mark(answer.choices[0])
    assert told["action"] == "allow"
    assert 0 < told["scores"]["vary/output"] < 1
    assert {(r["policy"], r["result"]) for r in told["rules"]} == {
        ("watch", "would_block"),
        ("watch", "flagged"),
    }
    assert b'kv_transfer_params":{' not in raw.http_response.content


def test_streamed_and_whole_answers_say_the_same(client: OpenAI) -> None:
    whole = chat(client)
    text, _, finishes, told = streamed(chat(client, stream=True))
    assert text == whole.choices[0].message.content
    assert finishes == ["length"] and told == mark(whole.choices[0])


def test_a_profile_is_a_model_name_and_answers_in_it(client: OpenAI) -> None:
    answer = chat(client, "plain")
    assert answer.model == "small:plain"
    assert mark(answer.choices[0])["steered"] == {"nudge": TOKENS - 1}
    assert {chunk.model for chunk in chat(client, "plain", stream=True)} == {"small:plain"}


def test_models_lists_profiles_with_their_parent(client: OpenAI) -> None:
    listed = {model.id: model.model_extra["parent"] for model in client.models.list()}
    assert listed[SERVED_NAME] is None
    assert listed["small:plain"] == SERVED_NAME and listed["small:steers"] == SERVED_NAME


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_prompt_as_error_is_a_400_before_any_header(client: OpenAI, stream: bool) -> None:
    with pytest.raises(BadRequestError) as caught:
        chat(client, "prompt-error", stream=stream)
    body, headers = caught.value.body, caught.value.response.headers
    assert isinstance(body, dict)
    assert (body["code"], body["param"], body["message"]) == ("content_filter", "prompt", MESSAGE)
    assert body["innererror"]["code"] == "PolicyViolation"
    assert headers["x-should-retry"] == "false"
    assert headers["x-pilothouse-prompt-action"] == "block"
    assert headers["x-pilothouse-decision-id"] == body["innererror"]["decision_id"]


def test_a_blocked_prompt_as_refusal_is_an_answer_with_its_usage(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="small:prompt-refusal", messages=MESSAGES, max_tokens=TOKENS, logprobs=True
    )
    answer = raw.parse()
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.refusal) == (None, MESSAGE)
    assert choice.finish_reason == "content_filter" and choice.logprobs is None
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens == 0
    assert raw.headers["x-pilothouse-prompt-action"] == "block"
    assert b"pilothouse:block" not in raw.http_response.content


def test_a_blocked_prompt_as_refusal_streams_a_refusal(client: OpenAI) -> None:
    stream = chat(client, "prompt-refusal", stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text, refusals, finishes, told = streamed(chunks)
    assert (text, refusals, finishes) == ("", [MESSAGE], ["content_filter"])
    assert told["action"] == "block"
    assert chunks[-1].usage.prompt_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_prompt_of_completions_is_a_400(client: OpenAI, stream: bool) -> None:
    with pytest.raises(BadRequestError) as caught:
        complete(client, "prompt-refusal", stream=stream)
    assert caught.value.code == "content_filter"


@pytest.mark.parametrize("policy", ["output-refusal", "final-refusal"])
def test_a_blocked_output_leaves_nothing(client: OpenAI, policy: str) -> None:
    answer = chat(
        client, policy, logprobs=True, top_logprobs=3, extra_body={"return_token_ids": True}
    )
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.refusal) == (None, MESSAGE)
    assert choice.finish_reason == "content_filter"
    assert choice.logprobs is None and choice.model_extra["token_ids"] is None
    text, refusals, finishes, _ = streamed(chat(client, policy, stream=True))
    assert (text, refusals, finishes) == ("", [MESSAGE], ["content_filter"])


def test_a_late_block_streams_what_was_cleared_and_no_more(client: OpenAI) -> None:
    plain = chat(client, logprobs=True)
    words = [token.token for token in plain.choices[0].logprobs.content]
    text, refusals, finishes, _ = streamed(chat(client, "output-late", stream=True))
    assert text == "".join(words[:LEAKED_TOKENS])
    assert (refusals, finishes) == ([MESSAGE], ["content_filter"])
    whole = chat(client, "output-late")
    assert whole.choices[0].message.content is None
    assert whole.usage.completion_tokens == LEAKED_TOKENS


def test_a_late_block_of_completions_keeps_the_text_so_far_on_a_stream_only(client: OpenAI) -> None:
    plain = complete(client).choices[0].text
    text, _, finishes, _ = streamed(complete(client, "output-late", stream=True))
    assert text and plain.startswith(text) and text != plain
    assert finishes == ["content_filter"]
    whole = complete(client, "output-late", logprobs=1)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("", "content_filter")
    assert whole.choices[0].logprobs is None


@pytest.mark.parametrize("policy", ["prompt-respond", "output-respond", "final-respond"])
@pytest.mark.parametrize("call", [chat, complete])
def test_a_canned_answer_is_an_answer(client: OpenAI, policy: str, call: Any) -> None:
    (choice,) = call(client, policy).choices
    said = choice.message.content if hasattr(choice, "message") else choice.text
    assert (said, choice.finish_reason) == (CANNED, "stop")
    text, _, finishes, told = streamed(call(client, policy, stream=True))
    assert (text, finishes, told["action"]) == (CANNED, ["stop"], "respond")


@pytest.mark.parametrize("policy", ["final-passes", "output-passes"])
def test_a_guarded_answer_that_passes_is_the_plain_answer(client: OpenAI, policy: str) -> None:
    plain = chat(client)
    guarded = chat(client, policy)
    assert guarded.choices[0].message.content == plain.choices[0].message.content
    assert guarded.choices[0].finish_reason == plain.choices[0].finish_reason == "length"
    assert guarded.usage == plain.usage
    text, _, finishes, _ = streamed(chat(client, policy, stream=True))
    assert (text, finishes) == (plain.choices[0].message.content, ["length"])


def test_a_policy_that_steers_says_so(client: OpenAI) -> None:
    answer = chat(client, "steers")
    told = mark(answer.choices[0])
    assert told["action"] == "steer" and told["steered"] == {"nudge": TOKENS - 1}
    assert answer.choices[0].message.content != chat(client).choices[0].message.content


@pytest.mark.parametrize("policy", ["prompt-refusal", "output-refusal", "final-refusal"])
def test_every_choice_of_two_is_ended(client: OpenAI, policy: str) -> None:
    answer = chat(client, policy, n=2, temperature=1)
    assert [choice.finish_reason for choice in answer.choices] == ["content_filter"] * 2
    assert [choice.message.refusal for choice in answer.choices] == [MESSAGE] * 2
    _, refusals, finishes, _ = streamed(chat(client, policy, n=2, temperature=1, stream=True))
    assert (refusals, finishes) == ([MESSAGE] * 2, ["content_filter"] * 2)


def test_of_several_prompts_each_choice_is_ended_alone(client: OpenAI) -> None:
    answer = complete(
        client, "prompt-refusal", prompt=["the tide", "the boats"], n=2, temperature=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in answer.choices} == {"content_filter"}
    assert all(mark(choice)["action"] == "block" for choice in answer.choices)


def test_a_stop_string_ends_an_answer_and_final_rules_still_run(client: OpenAI) -> None:
    plain = chat(client, logprobs=True)
    stop = plain.choices[0].logprobs.content[3].token.strip()
    answer = chat(client, "final-refusal", stop=[stop])
    assert answer.choices[0].message.refusal == MESSAGE
    passing = chat(client, "final-passes", stop=[stop])
    assert passing.choices[0].finish_reason == "stop"
    assert stop not in (passing.choices[0].message.content or "")


@pytest.mark.parametrize("policy", ["output-refusal", "final-refusal"])
def test_one_token_answers_leave_nothing_either(client: OpenAI, policy: str) -> None:
    answer = chat(client, policy, max_tokens=1)
    assert answer.choices[0].message.content is None
    text, *_ = streamed(chat(client, policy, max_tokens=1, stream=True))
    assert text == ""


def test_token_scores_name_the_tokens_that_left(client: OpenAI) -> None:
    answer = chat(
        client,
        extra_body={
            "pilothouse": {"scores": "tokens", "probes": ["vary"]},
            "return_token_ids": True,
        },
    )
    (choice,) = answer.choices
    told = mark(choice)["token_scores"]
    ids = choice.model_extra["token_ids"]
    assert [each["index"] for each in told] == list(range(len(told)))
    assert [each["token_id"] for each in told] == ids[: len(told)]
    assert len(told) >= len(ids) - 1 and all(0 < each["vary"] < 1 for each in told)


def test_client_steering_takes_effect_and_is_told(client: OpenAI) -> None:
    steer = {"steer": [{"vector": "nudge", "scale": STRONG}]}
    answer = chat(client, extra_body={"pilothouse": steer})
    assert answer.choices[0].message.content != chat(client).choices[0].message.content
    assert mark(answer.choices[0])["steered"] == {"nudge": TOKENS - 1}


def test_client_edits_of_features_take_effect_and_are_told(client: OpenAI) -> None:
    plain = chat(client).choices[0].message.content
    edits = [
        {"sae": "topics", "feature": LABEL, "value": LOUD / MAX_ACT, "unit": "max_act"},
        {"sae": "topics", "feature": [3], "op": "add", "value": 2.0},
    ]
    answer = chat(client, extra_body={"pilothouse": {"steer": edits}})
    assert answer.choices[0].message.content != plain
    assert mark(answer.choices[0])["steered"] == {"topics": TOKENS - 1}
    raw = [{"sae": "topics", "feature": FEATURE, "value": LOUD}, edits[1]]
    same = chat(client, extra_body={"pilothouse": {"steer": raw}})
    assert same.choices[0].message.content == answer.choices[0].message.content


def test_a_feature_that_is_never_over_its_bound_is_left_alone(client: OpenAI) -> None:
    far = {"sae": "topics", "feature": list(range(8)), "op": "set", "value": 30.0, "above": 1e6}
    answer = chat(client, extra_body={"pilothouse": {"steer": [far]}})
    assert answer.choices[0].message.content == chat(client).choices[0].message.content


def test_a_profile_and_a_policy_edit_features(client: OpenAI, small_server: ServerProcess) -> None:
    plain = chat(client).choices[0].message.content
    profiled = chat(client, "tide")
    assert mark(profiled.choices[0])["steered"] == {"topics": TOKENS - 1}
    before = small_server.metric("pilothouse_steered_tokens_total", name="topics")
    steered = chat(client, "features")
    assert mark(steered.choices[0])["action"] == "steer"
    assert mark(steered.choices[0])["steered"]["topics"] > 0
    assert small_server.metric("pilothouse_steered_tokens_total", name="topics") > before
    texts = {each.choices[0].message.content for each in (profiled, steered)}
    assert len(texts | {plain}) == 3


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"steer": [{"sae": "topic", "feature": 1, "value": 1}]}, "pilothouse.steer.0.sae"),
        ({"steer": [{"sae": "topics", "feature": 48, "value": 1}]}, "pilothouse.steer"),
        ({"steer": [{"sae": "topics", "value": 1}]}, "pilothouse.steer.0"),
        ({"steer": [{"vector": "nugde", "scale": 1}]}, "pilothouse.steer.0.vector"),
        ({"steer": [{"vector": "nudge", "scale": 1, "layers": [0]}]}, "pilothouse.steer.0.layers"),
        ({"steer": [{"vector": "nudge", "scale": 1, "unit": "bold"}]}, "pilothouse.steer.0.unit"),
        ({"steer": [{"vector": "nudge", "scale": 90}]}, "pilothouse.steer"),
        ({"probes": ["nope"]}, "pilothouse.probes.0"),
        ({"skip": True}, "pilothouse.skip"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(client: OpenAI, field: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        chat(client, extra_body={"pilothouse": field})
    assert caught.value.param == param


@pytest.mark.parametrize("stream", [False, True])
def test_a_log_tells_which_features_the_request_turned_on(client: OpenAI, stream: bool) -> None:
    told = {}
    for policy in ("logs", "logs-late"):
        answer = chat(client, policy, stream=stream)
        choice = streamed(answer)[3] if stream else mark(answer.choices[0])
        told[policy] = next(each for each in choice["rules"] if each["policy"] == policy)
    found = told["logs"]["features"]
    assert 0 < len(found) <= 4 and all(each["code"] > 5.0 for each in found)
    assert [each["code"] for each in found] == sorted((e["code"] for e in found), reverse=True)
    labelled = told["logs-late"]["features"]
    assert {each["label"] for each in labelled} <= {LABEL, "tides", "boats"}
    known = {each["feature"]: each for each in found}
    for each in labelled:
        assert known.get(each["feature"], each) == each


def test_a_page_of_an_allowed_origin_can_read_refusals_as_well_as_answers(
    small_server: ServerProcess,
) -> None:
    good = {"model": SERVED_NAME, "messages": MESSAGES, "max_tokens": 1}
    blocked = good | {"model": f"{SERVED_NAME}:prompt-error"}
    malformed = good | {"pilothouse": {"steer": 7}}
    chat_path, embed_path = "/v1/chat/completions", "/v1/embeddings"
    asked = [
        (chat_path, good),
        (chat_path, blocked),
        (chat_path, malformed),
        (embed_path, {}),
    ]
    marks = {}
    for origin in (KNOWN_ORIGIN, "https://other.example"):
        answers = [post(small_server, path, body, origin=origin) for path, body in asked]
        assert [each.status_code for each in answers] == [200, 400, 400, 403]
        marks[origin] = [each.headers.get_list("access-control-allow-origin") for each in answers]
    assert marks == {KNOWN_ORIGIN: [[KNOWN_ORIGIN]] * 4, "https://other.example": [[]] * 4}


@pytest.mark.parametrize("path", sorted(path for path in DENIED if "{" not in path))
def test_every_route_that_is_not_governed_is_denied(small_server: ServerProcess, path: str) -> None:
    answer = post(small_server, path, {"model": SERVED_NAME, "messages": MESSAGES, "prompt": "x"})
    assert answer.status_code == 403, path
    assert answer.json()["error"]["code"] == "route_denied"


def test_every_route_the_server_really_has_is_known_and_the_denied_ones_are_denied(
    small_server: ServerProcess,
) -> None:
    told = httpx.get(f"{small_server.url}/pilothouse/v1/status").json()["routes"]
    paths = {each["path"] for each in told}
    assert {"/v1/chat/completions", "/v1/responses", "/invocations", "/metrics"} <= paths
    assert [path for path in paths if not RouteTable().known(path)] == []
    for each in told:
        if each["verdict"] == "denied":
            path = each["path"].replace("{response_id}", "resp_1")
            for method in each["methods"]:
                answer = httpx.request(method, small_server.url + path, json={})
                assert answer.status_code == 403, each


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/v1/models/small", 404),
        ("/v1/chat/completions/", 307),
        ("/v1/responses/", 307),
        ("/v1/messages/", 404),
        ("//v1/responses", 404),
        ("/V1/models", 404),
        ("/metrics/deep", 403),
    ],
)
def test_paths_that_nobody_listed_are_denied(
    small_server: ServerProcess, path: str, status: int
) -> None:
    assert post(small_server, path, {}).status_code == status
    answer = httpx.get(f"{small_server.url}{path}")
    assert answer.status_code == status
    if status == 404:
        assert answer.json() == {"detail": "Not Found"}


def test_a_websocket_is_refused(small_server: ServerProcess) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = httpx.get(f"{small_server.url}/v1/realtime", headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/health", "/version", "/v1/models", "/metrics", "/load"])
def test_harmless_routes_pass(small_server: ServerProcess, path: str) -> None:
    assert httpx.get(small_server.url + path).status_code == 200


def test_ready_has_asked_the_workers(small_server: ServerProcess) -> None:
    told = httpx.get(f"{small_server.url}/pilothouse/v1/ready").json()
    assert told["ready"] and told["workers"] == 1 and told["problems"] == []


def test_catalogue_names_what_can_be_asked_for(small_server: ServerProcess) -> None:
    told = httpx.get(f"{small_server.url}/pilothouse/v1/catalogue").json()
    assert set(told["vectors"]) == {"nudge"} and set(told["probes"]) == {"always", "never", "vary"}
    assert told["policies"]["watch"]["mode"] == "shadow"
    sae = told["saes"]["topics"]
    assert (sae["form"], sae["site"], sae["layers"]) == ("jumprelu", "resid_post", [3])
    assert (sae["features"], sae["labels"], sae["max_act"]) == (48, 4, True)


@pytest.mark.parametrize(
    "change",
    [
        {"vllm_xargs": {"pilothouse_sealed": "forged.forged"}},
        {"vllm_xargs": {"Pilothouse": 1}},
        {"kv_transfer_params": {"do_remote_decode": True}},
        {"ec_transfer_params": {"a": 1}},
        {"use_beam_search": True, "n": 2},
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"continue_final_message": True}},
        {"n": 1000},
    ],
)
def test_what_would_pass_the_guard_by_is_refused(small_server: ServerProcess, change: Any) -> None:
    body = {"model": SERVED_NAME, "messages": MESSAGES, "max_tokens": 2} | change
    answer = post(small_server, "/v1/chat/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] in change


def test_vllms_own_errors_pass_untouched(small_server: ServerProcess) -> None:
    answer = post(small_server, "/v1/chat/completions", {"model": "nope", "messages": MESSAGES})
    assert answer.status_code == 404 and answer.json()["error"]["type"] == "NotFoundError"
    answer = post(small_server, "/v1/chat/completions", {"model": SERVED_NAME})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "body.messages"
    kind = {"content-type": "text/plain"}
    answer = httpx.post(f"{small_server.url}/v1/completions", content=b"{}", headers=kind)
    assert answer.status_code == 415


def test_a_client_that_goes_away_leaves_a_server_that_answers(
    small_server: ServerProcess, client: OpenAI
) -> None:
    body = {
        "model": "small:output-passes",
        "messages": MESSAGES,
        "max_tokens": 400,
        "stream": True,
        "ignore_eos": True,
    }
    for _ in range(3):
        with httpx.stream(
            "POST", f"{small_server.url}/v1/chat/completions", json=body, timeout=30
        ) as answer:
            next(answer.iter_raw())
    assert chat(client).choices[0].message.content


def test_clients_headers_in_our_name_are_dropped(small_server: ServerProcess) -> None:
    body = {"model": SERVED_NAME, "messages": MESSAGES, "max_tokens": 2}
    answer = post(small_server, "/v1/chat/completions", body, **{"x-pilothouse-decision-id": "me"})
    assert answer.headers.get_list("x-pilothouse-decision-id") == [
        answer.json()["pilothouse"]["decision_id"]
    ]


def test_errors_of_ours_are_the_clients_kinds(client: OpenAI) -> None:
    with pytest.raises(PermissionDeniedError):
        client.embeddings.create(model=SERVED_NAME, input="hello")
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(
            model=SERVED_NAME, messages=MESSAGES, extra_body={"pilothouse": "loud"}
        )
    assert caught.value.status_code == 400
    assert json.loads(caught.value.response.content)["error"]["param"] == "pilothouse"
