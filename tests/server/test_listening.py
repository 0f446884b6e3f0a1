"""What can connect where the server listens, and the settings of `auth` that could never work."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from pilothouse.config import Auth, parse_config
from pilothouse.errors import ConfigError
from pilothouse.server.auth import (
    ANYWHERE,
    NOT_PRIVATE,
    PROXY_IS_NOBODY,
    Listening,
    api_keys,
    check_auth,
    listening_of,
    operators,
    why_closed,
)
from pilothouse.trusted_proxies import TrustedProxies

V4, V6 = frozenset({4}), frozenset({6})
LOOPBACK = Listening(loopback_only=True, versions=V4)
UNIX = Listening(unix=True)


def auth(*cidrs: str) -> Auth:
    return Auth(trusted_proxies=TrustedProxies(cidrs=cidrs))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (None, Listening(versions=V4)),
        ("", Listening(versions=V4)),
        ("0.0.0.0", Listening(versions=V4)),
        ("192.0.2.7", Listening(versions=V4)),
        ("::", Listening()),
        ("::1", Listening(loopback_only=True, versions=V6)),
        ("fd00::7", Listening(versions=V6)),
        ("::ffff:192.0.2.7", Listening(versions=V4)),
        ("fe80::1%eth0", Listening(versions=V6)),
        ("127.0.0.1", LOOPBACK),
        ("127.3.2.1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("localhost", LOOPBACK),
        ("no.such.host.invalid", Listening(versions=V4)),
    ],
)
def test_only_a_loopback_address_is_private(host: str | None, expected: Listening) -> None:
    found = listening_of(Namespace(host=host, uds=None))
    assert found == expected
    assert found.is_private is expected.loopback_only


def test_a_unix_socket_takes_the_place_of_a_host() -> None:
    found = listening_of(Namespace(host="0.0.0.0", uds="/run/socket"))
    assert found == UNIX and found.is_private


@pytest.mark.parametrize(
    ("listening", "cidrs", "remedy"),
    [
        (UNIX, ("127.0.0.1/32",), "'unix'"),
        (LOOPBACK, ("unix",), "--uds PATH"),
        (ANYWHERE, ("10.0.0.0/8", "unix"), "--uds PATH"),
        (LOOPBACK, ("10.0.0.0/8", "::1/128"), "127.0.0.1/32"),
        (Listening(versions=V4), ("fd00::/8",), "--host"),
        (Listening(versions=V6), ("10.0.0.0/8",), "the proxy's IPv6 network"),
        (Listening(loopback_only=True, versions=V6), ("127.0.0.1/32",), "want ::1/128"),
    ],
)
def test_proxies_that_no_peer_can_be_are_refused(
    listening: Listening, cidrs: tuple[str, ...], remedy: str
) -> None:
    with pytest.raises(ConfigError, match=r"auth\.trusted_proxies\.cidrs") as refused:
        check_auth(auth(*cidrs), listening)
    assert remedy in str(refused.value) and cidrs[-1] in str(refused.value)


@pytest.mark.parametrize(
    ("listening", "cidrs"),
    [
        (UNIX, ("unix",)),
        (UNIX, ()),
        (LOOPBACK, ("127.0.0.1/32", "::1/128", "192.0.2.0/24")),
        (LOOPBACK, ("0.0.0.0/0",)),
        (ANYWHERE, ("10.0.0.0/8",)),
        (Listening(), ("fd00::/8",)),
    ],
)
def test_proxies_that_a_peer_can_be_are_taken(listening: Listening, cidrs: tuple[str, ...]) -> None:
    check_auth(auth(*cidrs), listening)


@pytest.mark.parametrize(
    ("proxies", "told"),
    [
        ({"cidrs": ["10.0.0.1/8"]}, "want a network such as 10.0.0.0/8"),
        ({"cidrs": ["everyone"]}, "want a network such as 10.0.0.0/8"),
        ({"cidrs": ["::ffff:10.0.0.0/104"]}, "want 10.0.0.0/8"),
        ({"cidrs": ["fe80::%eth0/10"]}, "zone"),
        ({"tenant_header": ""}, "tenant_header"),
        ({"tenant_header": "x tenant"}, "tenant_header"),
        ({"tenant_header": "X-Pilothouse-Tenant"}, "are dropped"),
    ],
)
def test_proxies_and_headers_that_are_none_are_refused_with_the_file(
    proxies: dict[str, Any], told: str, tmp_path: Path
) -> None:
    raw = {"version": 1, "auth": {"trusted_proxies": proxies}}
    with pytest.raises(ConfigError) as refused:
        parse_config(raw, folder=tmp_path, origin="pilothouse.yaml")
    assert "pilothouse.yaml: auth.trusted_proxies" in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("listening", "cidrs", "keyed", "expected"),
    [
        (ANYWHERE, (), False, NOT_PRIVATE),
        (ANYWHERE, (), True, None),
        (LOOPBACK, (), False, None),
        (LOOPBACK, ("127.0.0.0/8",), False, PROXY_IS_NOBODY),
        (LOOPBACK, ("127.0.0.0/8",), True, None),
        (LOOPBACK, ("127.7.7.7/32",), False, None),
        (UNIX, (), False, None),
        (UNIX, ("unix",), False, PROXY_IS_NOBODY),
    ],
)
def test_the_start_says_when_nobody_can_be_the_operator(
    listening: Listening, cidrs: tuple[str, ...], keyed: bool, expected: str | None
) -> None:
    assert why_closed(auth(*cidrs), listening, keyed=keyed) == expected
    who = "callers with an API key" if keyed else "callers on this machine"
    told = operators(auth(*cidrs), listening, keyed=keyed)
    assert told == (who if expected is None else f"nobody: {expected}")


def test_keys_are_those_that_vllm_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "from the environment")
    assert api_keys(Namespace(api_key=["a", ""])) == ["a"]
    assert api_keys(Namespace(api_key=None)) == ["from the environment"]
    monkeypatch.setenv("VLLM_API_KEY", "")
    assert api_keys(Namespace(api_key=None)) == []
