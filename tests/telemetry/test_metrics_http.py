"""What /metrics says of requests that were really made, with one API server and with two."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.servers.server_process import ServerProcess, serve_process
from tests.support.servers.tiny_deployment import (
    FEATURE_PROFILE,
    KNOWN_ORIGIN,
    PLAIN_PROFILE,
    SERVED_NAME,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

MESSAGES = [{"role": "user", "content": "the tide"}]


def chat(server: ServerProcess, model: str, **changes: Any) -> httpx.Response:
    body = {"model": model, "messages": MESSAGES, "max_tokens": 4, "temperature": 0} | changes
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def rises(server: ServerProcess, act: Callable[[], None], *wanted: Any) -> list[float]:
    """How far each metric rose; waits a little for records that come after the answer."""
    before = [server.metric(f"pilothouse_{name}", **labels) for name, labels, _ in wanted]
    act()
    deadline = time.monotonic() + 20
    while True:
        now = [server.metric(f"pilothouse_{name}", **labels) for name, labels, _ in wanted]
        risen = [after - first for after, first in zip(now, before, strict=True)]
        if risen == [rise for _, _, rise in wanted] or time.monotonic() > deadline:
            return risen
        time.sleep(0.2)


def check(server: ServerProcess, act: Callable[[], None], *wanted: Any) -> None:
    assert rises(server, act, *wanted) == [rise for _, _, rise in wanted]


def of(policy: str, result: str) -> dict[str, str]:
    return {"policy": policy, "result": result}


def test_each_request_is_counted_once_by_what_became_of_it(small_server: ServerProcess) -> None:
    def act() -> None:
        chat(small_server, SERVED_NAME)
        chat(small_server, SERVED_NAME, n=3, temperature=1)
        chat(small_server, "small:prompt-error")
        chat(small_server, "small:prompt-refusal", stream=True)
        chat(small_server, "small:final-respond")
        chat(small_server, "small:steers")
        chat(small_server, SERVED_NAME, pilothouse={"no": 1})
        chat(small_server, "nothing")
        httpx.post(f"{small_server.url}/v1/messages", json={})
        httpx.get(f"{small_server.url}/health")

    wanted = {"allow": 2, "block": 2, "respond": 1, "steer": 1, "reject": 1, "error": 1, "deny": 1}
    check(
        small_server,
        act,
        *(("requests_total", {"action": action}, rise) for action, rise in wanted.items()),
        ("requests_total", {}, sum(wanted.values())),
        ("requests_total", {"model_name": "small:steers", "endpoint": "chat"}, 1),
        ("requests_total", {"endpoint": "other"}, 1),
    )


def test_what_asks_by_another_method_or_runs_nothing_is_counted_once(
    small_server: ServerProcess,
) -> None:
    url = small_server.url
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    preflight = {"origin": KNOWN_ORIGIN, "access-control-request-method": "POST"}

    def act() -> None:
        for path in ("/v1/realtime", "/v1/chat/completions", "/nowhere"):
            assert httpx.get(f"{url}{path}", headers=upgrade).status_code == 403
        for method in ("GET", "HEAD", "DELETE"):
            assert httpx.request(method, f"{url}/v1/completions").status_code == 405
        assert httpx.options(f"{url}/v1/completions").status_code == 405
        assert httpx.options(f"{url}/v1/completions", headers=preflight).status_code == 200
        assert httpx.get(f"{url}/v1/models/{SERVED_NAME}").status_code == 404
        assert httpx.options(f"{url}/v1/messages").status_code == 403
        assert httpx.post(f"{url}/v1/completions/").status_code == 307
        assert httpx.post(f"{url}/health").status_code == 405

    check(
        small_server,
        act,
        ("requests_total", {"endpoint": "other", "action": "deny"}, 5),
        ("requests_total", {"endpoint": "completions", "action": "reject"}, 4),
        ("requests_total", {"endpoint": "completions", "action": "allow"}, 1),
        ("requests_total", {}, 10),
    )


def hang_up(
    server: ServerProcess, seconds: float, *, reset: bool, whole: bool, **more: Any
) -> None:
    """Ask for a long answer and go away; `reset` without a farewell, `whole` with all of a body."""
    body = json.dumps(
        {"model": PLAIN_PROFILE, "messages": MESSAGES, "max_tokens": 450, "ignore_eos": True} | more
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.sendall(head.encode() + (body if whole else body[:20]))
        time.sleep(seconds)


def test_a_client_that_hangs_up_is_an_abort_every_time_and_leaves_no_gauge_up(
    small_server: ServerProcess,
) -> None:
    cases = [
        (seconds, reset, more)
        for seconds in (0.0, 0.02, 0.1, 0.3)
        for reset in (False, True)
        for more in ({}, {"stream": True}, {"n": 3, "temperature": 1})
    ]

    def act() -> None:
        for seconds, reset, more in cases:
            hang_up(small_server, seconds, reset=reset, whole=True, **more)
            hang_up(small_server, 0.0, reset=reset, whole=False)

    check(
        small_server,
        act,
        ("requests_total", {"action": "abort", "endpoint": "chat"}, 2 * len(cases)),
        ("requests_total", {}, 2 * len(cases)),
    )
    deadline = time.monotonic() + 20
    while small_server.metric("pilothouse_programs_active") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert small_server.metric("pilothouse_programs_active") == 0


def test_the_gauge_of_programs_rises_and_falls_without_another_request(
    small_server: ServerProcess,
) -> None:
    seen = set()
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(chat, small_server, model, max_tokens=450, ignore_eos=True)
            for model in (PLAIN_PROFILE, FEATURE_PROFILE)
        ]
        while not all(each.done() for each in asked):
            seen.add(small_server.metric("pilothouse_programs_active"))
    assert max(seen) in (1, 2)
    deadline = time.monotonic() + 20
    while small_server.metric("pilothouse_programs_active") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert small_server.metric("pilothouse_programs_active") == 0


def test_each_rule_is_counted_once_per_choice(small_server: ServerProcess) -> None:
    check(
        small_server,
        lambda: (chat(small_server, "small:output-passes", n=2, temperature=1), None)[1],
        ("decisions_total", of("output-passes", "allowed"), 2),
        ("decisions_total", of("watch", "would_block"), 2),
        ("decisions_total", {"policy": "watch", "phase": "final", "mode": "shadow"}, 2),
        ("probe_score_count", {"probe": "vary", "readout": "output"}, 2),
        ("policy_seconds_count", {}, 2),
        ("hold_back_seconds_count", {}, 2),
    )


@pytest.mark.parametrize(
    ("policy", "result"),
    [
        ("prompt-refusal", "blocked"),
        ("output-late", "blocked"),
        ("final-refusal", "blocked"),
        ("output-respond", "responded"),
        ("final-respond", "responded"),
        ("steers", "steered"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_verdict_is_counted_as_what_it_was(
    small_server: ServerProcess, policy: str, result: str, stream: bool
) -> None:
    check(
        small_server,
        lambda: (chat(small_server, f"small:{policy}", stream=stream), None)[1],
        ("decisions_total", of(policy, result), 1),
        ("decisions_total", {"policy": policy}, 1),
    )


def test_an_answer_cut_by_a_stop_string_is_counted_too(small_server: ServerProcess) -> None:
    words = chat(small_server, SERVED_NAME).json()["choices"][0]["message"]["content"]
    check(
        small_server,
        lambda: (chat(small_server, "small:output-passes", stop=[words[2:4]]), None)[1],
        ("decisions_total", {"policy": "output-passes"}, 1),
        ("policy_seconds_count", {}, 1),
    )


def test_vllms_own_metrics_are_still_there(small_server: ServerProcess) -> None:
    chat(small_server, SERVED_NAME)
    assert small_server.metric("vllm:generation_tokens_total") > 0


@pytest.mark.full
def test_two_api_servers_add_up_exactly(tiny_house: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.txt"
    with serve_process(tiny_house, SERVED_NAME, log, "--api-server-count", "2") as server:

        def act() -> None:
            for _ in range(12):  # a connection each, so that both processes get some
                chat(server, SERVED_NAME)
            for _ in range(6):
                chat(server, "small:prompt-refusal")
            for _ in range(4):
                httpx.post(f"{server.url}/invocations", json={})

        check(
            server,
            act,
            ("requests_total", {}, 22),
            ("requests_total", {"action": "allow"}, 12),
            ("requests_total", {"action": "block"}, 6),
            ("requests_total", {"action": "deny"}, 4),
            ("decisions_total", of("prompt-refusal", "blocked"), 6),
            ("decisions_total", of("watch", "would_block"), 18),
            ("probe_score_count", {"probe": "vary", "readout": "prompt"}, 18),
        )
        both = {server.metric("pilothouse_config_fingerprint") for _ in range(6)}
        assert len(both) == 1 and both.pop() > 0
        assert log.read_text(errors="replace").count(" runs revision ") == 1
