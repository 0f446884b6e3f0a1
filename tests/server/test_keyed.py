"""A server with keys, without grants, that stops on unknown routes; and what is left of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.servers.server_process import ServerProcess, serve_process
from tests.support.servers.tiny_deployment import SERVED_NAME, make_tiny_house

pytestmark = [pytest.mark.full, pytest.mark.server, pytest.mark.timeout(900)]

KEY = {"authorization": "Bearer secret"}
BODY = {"model": SERVED_NAME, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("keyed")
    config = make_tiny_house(folder, grants=False, unknown_routes="refuse_start")
    log = folder / "server.txt"
    family: list[psutil.Process] = []
    with serve_process(config, SERVED_NAME, log, "--api-key", "secret") as running:
        yield running
        family = psutil.Process(running.pid).children(recursive=True)
    assert family
    deadline = time.monotonic() + 30
    while any(each.is_running() for each in family) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [each for each in family if each.is_running()] == [], "Ctrl-C left orphans"


def post(server: ServerProcess, path: str, **changes: object) -> httpx.Response:
    headers = changes.pop("headers", {})
    assert isinstance(headers, dict)
    return httpx.post(f"{server.url}{path}", json=BODY | changes, headers=headers, timeout=60)


def test_without_a_key_nothing_is_said(server: ServerProcess) -> None:
    assert post(server, "/v1/chat/completions").status_code == 401
    assert post(server, "/v1/chat/completions", pilothouse={"x": 1}).status_code == 401
    for path in ("status", "catalogue"):
        assert httpx.get(f"{server.url}/pilothouse/v1/{path}").status_code == 401
    assert httpx.get(f"{server.url}/pilothouse/v1/ready").status_code == 200
    text, ids = {"prompt": "hello"}, {"tokens": [5]}
    for path, body in (("/tokenize", text), ("/detokenize", ids)):
        assert httpx.post(f"{server.url}{path}", json=body).status_code == 401
        assert httpx.post(f"{server.url}{path}", json=body, headers=KEY).status_code == 200


def test_with_a_key_there_are_answers_without_scores(server: ServerProcess) -> None:
    answer = post(server, "/v1/chat/completions", headers=KEY)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["pilothouse"] == {"action": "allow"}
    assert httpx.get(f"{server.url}/pilothouse/v1/status", headers=KEY).status_code == 200


@pytest.mark.parametrize(
    "field",
    [{"steer": [{"vector": "nudge", "scale": 1}]}, {"scores": "summary"}, {"probes": ["vary"]}],
)
def test_what_was_not_granted_is_refused(server: ServerProcess, field: object) -> None:
    answer = post(server, "/v1/chat/completions", headers=KEY, pilothouse=field)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "pilothouse_forbidden"


def test_a_check_takes_the_key_and_tells_no_scores_without_the_grant(
    server: ServerProcess,
) -> None:
    def ask(headers: dict[str, str], **fields: object) -> httpx.Response:
        body = {"model": f"{SERVED_NAME}:prompt-refusal", "input": "hello"} | fields
        url = f"{server.url}/pilothouse/v1/check"
        return httpx.post(url, json=body, headers=headers, timeout=60)

    assert ask({}).status_code == 401
    assert httpx.post(f"{server.url}/v1/moderations", json={"input": "a"}).status_code == 401
    assert ask(KEY, scores="summary").status_code == 403
    answer = ask(KEY).json()
    assert answer["flagged"] and answer["policies"] == ["prompt-refusal"]
    [result] = answer["results"]
    assert "scores" not in result
    assert [set(each) for each in result["decisions"]] == [
        {"policy", "rule", "phase", "mode", "action"}
    ]


def test_profiles_need_no_grant(server: ServerProcess) -> None:
    answer = post(server, "/v1/chat/completions", headers=KEY, model="small:plain")
    assert answer.status_code == 200 and answer.json()["model"] == "small:plain"


def test_a_reload_takes_the_key_and_this_machine(server: ServerProcess) -> None:
    url = f"{server.url}/pilothouse/v1/reload"
    assert httpx.post(url, timeout=60).status_code == 401
    assert httpx.post(url, headers=KEY | {"via": "1.1 proxy"}, timeout=60).status_code == 403
    assert httpx.post(url, headers=KEY, timeout=60).json()["added"] == []


def test_the_log_does_not_hold_the_plan(server: ServerProcess) -> None:
    said = server.log.read_text()
    assert "additional_config" in said and "seen >= 0.5" not in said


def test_a_route_that_nobody_knows_stops_the_start(tmp_path: Path) -> None:
    config = make_tiny_house(tmp_path, unknown_routes="refuse_start", allow=["/v1/responses"])
    with (
        pytest.raises(RuntimeError, match="want a route that runs no model"),
        serve_process(config, SERVED_NAME, tmp_path / "server.txt"),
    ):
        pass
