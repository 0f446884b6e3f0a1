"""The peer is the socket's, whatever a header says; asked of a real uvicorn."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from pilothouse.errors import ConfigError
from pilothouse.server.answers import send_json
from pilothouse.server.peer import (
    FORWARDING_VARIABLE,
    Peer,
    check_forwarding_is_off,
    passed_on,
    peer_of,
    refuse_forwarding,
)
from tests.support.servers.nginx import nginx_before
from tests.support.servers.uvicorn_server import uvicorn_around

LIES = (
    {},
    {"x-forwarded-for": "203.0.113.9"},
    {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "https"},
    {"forwarded": "for=203.0.113.9", "x-real-ip": "203.0.113.9"},
)


async def tell(scope: Scope, _: Receive, send: Send) -> None:
    peer = peer_of(scope)
    told = [str(peer.address), peer.unix, peer.on_this_machine, passed_on(scope), scope["scheme"]]
    await send_json(send, 200, told)


@pytest.fixture
def unforwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORWARDING_VARIABLE, "")
    refuse_forwarding()


def bound(family: socket.AddressFamily, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(address)
    return sock


def told(url: str, headers: dict[str, str], **transport: Any) -> list[Any]:
    with httpx.Client(transport=httpx.HTTPTransport(**transport)) as client:
        found: list[Any] = json.loads(client.get(url, headers=headers).content)
    return found


@pytest.mark.usefixtures("unforwarded")
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: ",".join(lie) or "nothing")
def test_no_header_chooses_the_address(lie: dict[str, str]) -> None:
    sock = bound(socket.AF_INET, ("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with uvicorn_around(tell, sock):
        for source in ("127.0.0.1", "127.7.7.7"):
            assert told(url, lie, local_address=source)[:3] == [source, False, True]
            assert told(url, lie, local_address=source)[4] == "http"


@pytest.mark.usefixtures("unforwarded")
def test_an_ipv4_caller_of_a_dual_stack_server_is_an_ipv4_peer() -> None:
    sock = bound(socket.AF_INET6, ("::", 0))
    port = sock.getsockname()[1]
    with uvicorn_around(tell, sock):
        assert told(f"http://127.0.0.1:{port}", {})[:3] == ["127.0.0.1", False, True]
        assert told(f"http://[::1]:{port}", LIES[1])[:3] == ["::1", False, True]


@pytest.mark.usefixtures("unforwarded")
def test_a_unix_sockets_peer_is_on_this_machine_and_has_no_address(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with uvicorn_around(tell, bound(socket.AF_UNIX, path)):
        for lie in LIES:
            assert told("http://any", lie, uds=path)[:3] == ["None", True, True]


@pytest.mark.usefixtures("unforwarded")
@pytest.mark.parametrize(
    ("directives", "sign"),
    [
        (("proxy_http_version 1.0;",), "HTTP/1.0"),
        (("proxy_http_version 1.1;", "proxy_set_header X-Real-IP $remote_addr;"), "header x-real"),
        (("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",), "header x-forwarded"),
        (("proxy_http_version 1.1;", "proxy_set_header Host $host;"), "header host"),
    ],
)
def test_nginx_is_the_peer_and_shows_itself(
    directives: tuple[str, ...], sign: str, tmp_path: Path
) -> None:
    sock = bound(socket.AF_INET, ("127.0.0.1", 0))
    upstream = f"http://127.0.0.1:{sock.getsockname()[1]}"
    source = "proxy_bind 127.7.7.7;"
    with (
        uvicorn_around(tell, sock),
        nginx_before(upstream, tmp_path / "nginx", (source, *directives)) as url,
    ):
        found = told(url, {"host": "inference.example"})
    assert found[:3] == ["127.7.7.7", False, True] and found[3].startswith(sign)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([], None),
        (["localhost"], None),
        (["LocalHost:8000"], None),
        (["127.0.0.1:8000"], None),
        (["127.3.2.1"], None),
        (["[::1]:8000"], None),
        (["[::ffff:127.0.0.1]"], None),
        (["inference.example:8000"], "inference.example:8000"),
        (["10.0.0.1"], "10.0.0.1"),
        (["127.0.0.1.evil.example"], "evil"),
        (["localhost.evil.example"], "evil"),
        (["localhost@evil.example"], "evil"),
        (["[::1].evil.example"], "evil"),
        (["2130706433"], "2130706433"),
        ([""], "''"),
        (["localhost", "evil.example"], "evil"),
        (["a" * 500], "a" * 80 + "'"),
    ],
)
def test_a_request_for_another_host_was_passed_on(hosts: list[str], expected: str | None) -> None:
    asked = scope(("127.0.0.1", 1)) | {"headers": [(b"host", each.encode()) for each in hosts]}
    sign = passed_on(asked)
    if expected is None:
        assert sign is None
    else:
        assert sign is not None and expected in sign and len(sign) < 150


@pytest.mark.parametrize("asked", ["*", "127.0.0.1", "10.0.0.0/8"])
def test_another_trust_of_uvicorns_stops_the_start(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORWARDING_VARIABLE, asked)
    with pytest.raises(ConfigError, match=r"auth\.trusted_proxies\.cidrs"):
        refuse_forwarding()
    with pytest.raises(ConfigError, match="API process"):
        check_forwarding_is_off()


def test_an_api_process_checks_that_forwarding_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORWARDING_VARIABLE, "")
    monkeypatch.delenv(FORWARDING_VARIABLE)
    with pytest.raises(ConfigError, match="API process"):
        check_forwarding_is_off()
    refuse_forwarding()
    check_forwarding_is_off()
    refuse_forwarding()  # what it set itself is no other trust
    assert os.environ[FORWARDING_VARIABLE] == ""


def scope(client: Any, server: Any = ("127.0.0.1", 8000)) -> dict[str, Any]:
    return {"type": "http", "headers": [], "client": client, "server": server}


@pytest.mark.parametrize(
    ("client", "server", "expected"),
    [
        (("10.0.0.1", 1), ("10.0.0.2", 8000), (False, False)),
        (("::ffff:10.0.0.1", 1), ("::", 8000), (False, False)),
        (("::ffff:127.0.0.1", 1), ("::", 8000), (False, True)),
        (("::ffff:7f00:1", 1), ("::", 8000), (False, True)),
        (("::ffff:127.0.0.1%lo", 1), ("::", 8000), (False, True)),
        (("fe80::1%eth0", 1), ("::", 8000), (False, False)),
        (("::127.0.0.1", 1), ("::", 8000), (False, False)),
        (("64:ff9b::127.0.0.1", 1), ("::", 8000), (False, False)),
        (("not an address", 0), ("127.0.0.1", 8000), (False, False)),
        (None, ("127.0.0.1", 8000), (False, False)),
        (None, None, (False, False)),
        (None, ("/run/socket", None), (True, True)),
    ],
)
def test_who_counts_as_on_this_machine(client: Any, server: Any, expected: Any) -> None:
    peer = peer_of(scope(client, server))
    assert (peer.unix, peer.on_this_machine) == expected


def key_of(address: str) -> str:
    return peer_of(scope((address, 1))).rollout_key


def test_callers_without_a_key_cannot_draw_their_rollout_anew() -> None:
    assert key_of("::ffff:10.0.0.1") == key_of("10.0.0.1") == "10.0.0.1"
    assert key_of("10.0.0.2") != key_of("10.0.0.1")
    assert key_of("2001:db8:1:2::1") == key_of("2001:db8:1:2:ffff::9")
    assert key_of("2001:db8:1:3::1") != key_of("2001:db8:1:2::1")
    assert {Peer(None).rollout_key, Peer(None, unix=True).rollout_key} == {"unknown", "unix"}
