"""A check over HTTP on the demo: its verdicts are those that a request of the same text gets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.support.servers.checks import (
    KINDS,
    chat,
    check,
    close,
    is_ended,
    post,
    texts,
    user,
)
from tests.support.servers.server_process import ServerProcess

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


def test_a_text_gets_the_verdict_and_the_scores_that_it_gets_as_a_request(
    demo_server: ServerProcess,
) -> None:
    asked = texts(*KINDS)
    found = check(demo_server, input=asked)
    assert len(found["results"]) == len(asked)
    num_flagged = 0
    for text, result in zip(asked, found["results"], strict=True):
        choice = chat(demo_server, model="demo", messages=[user(text)])
        assert result["flagged"] is is_ended(choice), text
        assert result["action"] == choice["pilothouse"]["action"], text
        told = [each for each in choice["pilothouse"]["rules"] if each["phase"] == "prompt"]
        assert {(each["policy"], each["rule"], each["result"]) for each in told} == {
            (each["policy"], each["rule"], each["result"]) for each in result["decisions"]
        }
        scores = choice["pilothouse"]["scores"]
        close(result["scores"], {key: scores[key] for key in result["scores"]})
        num_flagged += result["flagged"]
    assert 3 <= num_flagged < len(asked)
    assert found["flagged"] is True and found["usage"]["prompt_tokens"] > len(asked)


def test_an_answer_gets_the_scores_that_it_got_when_the_model_said_it(
    demo_server: ServerProcess,
) -> None:
    num_compared = 0
    for text in texts("known", "unknown", "benign"):
        said = chat(demo_server, model="demo", messages=[user(text)])
        if said["finish_reason"] != "stop" or said["pilothouse"]["steered"]:
            continue  # its last token was not read, or another was said than the model would
        item = {"messages": [user(text)], "answer": said["message"]["content"]}
        [result] = check(demo_server, input=item)["results"]
        assert result["direction"] == "answer"
        close(result["scores"], said["pilothouse"]["scores"])
        num_compared += 1
    assert num_compared >= 4


def test_checks_beside_each_other_and_beside_chats_get_their_own_verdicts(
    demo_server: ServerProcess,
) -> None:
    asked = texts("forbidden", "benign", "known")
    alone = [each["flagged"] for each in check(demo_server, input=asked)["results"]]

    def one(index: int) -> Any:
        if index % 3 == 0:
            return chat(demo_server, model="demo", messages=[user(asked[3])])["finish_reason"]
        return [each["flagged"] for each in check(demo_server, input=asked)["results"]]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(one, range(12)))
    assert all(each in (alone, "stop") for each in found)


def test_openais_client_reads_moderations(demo_server: ServerProcess) -> None:
    client = OpenAI(base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0)
    asked = [*texts("forbidden", count=2), *texts("benign", count=2)]
    found = client.moderations.create(model="omni-moderation-latest", input=asked)
    assert found.model == "demo" and found.id.startswith("modr-")
    assert [each.flagged for each in found.results] == [True, True, False, False]
    for result in found.results:
        categories = result.categories.model_dump()
        scores = result.category_scores.model_dump()
        assert categories["no-misuse/block-misuse"] is result.flagged
        assert (scores["no-misuse/block-misuse"] > 0.5) is result.flagged
        assert 0.0 < scores["note-adversarial/note-adversarial"] < 1.0
    [one] = client.moderations.create(input=asked[0]).results
    assert one.flagged
    parts: Any = [{"type": "text", "text": asked[0]}]
    [one] = client.moderations.create(input=parts).results
    assert one.flagged
    picture: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    with pytest.raises(BadRequestError):
        client.moderations.create(input=picture)
    with pytest.raises(NotFoundError):
        client.moderations.create(model="nowhere", input="a")


def test_a_detector_lists_spans_or_nothing_for_each_content(demo_server: ServerProcess) -> None:
    path = "/api/v1/text/contents"
    barred, harmless = texts("forbidden", count=1)[0], texts("benign", count=1)[0]
    body = {"contents": [harmless, barred], "detector_params": {"threshold": 0.5}}
    for detector in ("pilothouse", "no-misuse"):
        answer = post(demo_server, path, body, **{"detector-id": detector})
        assert answer.status_code == 200, answer.text
        nothing, [found] = answer.json()
        assert nothing == []
        assert (found["start"], found["end"], found["text"]) == (0, len(barred), barred)
        assert (found["detection_type"], found["detection"]) == ("no-misuse", "block-misuse")
        assert found["score"] > 0.5
    assert post(demo_server, f"{path}?detector_id=no-misuse", body).status_code == 200
    missing = post(demo_server, path, body, **{"detector-id": "nowhere"})
    assert missing.status_code == 404 and missing.json()["code"] == 404
    for wrong in ({}, {"contents": []}, {"contents": "text"}):
        answer = post(demo_server, path, wrong, **{"detector-id": "pilothouse"})
        assert answer.status_code == 422 and set(answer.json()) == {"code", "message"}
    assert post(demo_server, path, body).status_code == 422


def test_bedrocks_shape_says_what_intervened(demo_server: ServerProcess) -> None:
    barred, harmless = texts("forbidden", count=1)[0], texts("benign", count=1)[0]

    def apply(name: str, *blocks: Any, source: str = "INPUT") -> httpx.Response:
        body = {"source": source, "content": list(blocks)}
        return post(demo_server, f"/guardrail/{name}/version/DRAFT/apply", body)

    found = apply("no-misuse", {"text": {"text": harmless}}, {"text": {"text": barred}}).json()
    assert found["action"] == "GUARDRAIL_INTERVENED"
    assert found["outputs"] == [{"text": "I cannot help with that request."}]
    [topic] = found["assessments"][1]["topicPolicy"]["topics"]
    assert (topic["name"], topic["action"]) == ("no-misuse/block-misuse", "BLOCKED")
    assert found["assessments"][0] == {}
    allowed = apply("pilothouse", {"text": {"text": harmless}}).json()
    assert (allowed["action"], allowed["outputs"]) == ("NONE", [])
    query = {"text": {"text": barred, "qualifiers": ["query"]}}
    answered = apply("pilothouse", query, {"text": {"text": "so be it."}}, source="OUTPUT")
    assert answered.json()["action"] == "NONE", "prompt rules judge no answer"
    assert apply("nowhere", {"text": {"text": "a"}}).status_code == 404
    for wrong in ({"image": {}}, {"text": {}}):
        answer = apply("pilothouse", wrong)
        assert answer.status_code == 400
        assert answer.json()["__type"] == "ValidationException"
