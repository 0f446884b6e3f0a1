"""Tenant, grants, operator and rollout hang on the socket's peer and on keys, on nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.config import Auth
from pilothouse.errors import ConfigError, RequestError
from pilothouse.server.auth import (
    ANYWHERE,
    MAX_TOLD_PEERS,
    NOT_PRIVATE,
    PROXY_IS_NOBODY,
    Authenticator,
    Listening,
)
from pilothouse.trusted_proxies import TrustedProxies

LOOPBACK = Listening(loopback_only=True)
UNIX = Listening(unix=True)
UNIX_SERVER = ("/run/socket", None)


def scope(
    host: str | None, *pairs: tuple[str, str], version: str = "1.1", **headers: str
) -> dict[str, Any]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    lines += [(name.encode(), value.encode()) for name, value in pairs]
    return {
        "type": "http",
        "headers": lines,
        "client": (host, 1) if host is not None else None,
        "server": ("192.0.2.1", 8000),
        "http_version": version,
    }


def unix_scope(**headers: str) -> dict[str, Any]:
    return scope(None, **headers) | {"server": UNIX_SERVER}


def keeper(
    *cidrs: str, listening: Listening = ANYWHERE, keys: tuple[str, ...] = (), demo: bool = False
) -> Authenticator:
    proxies = TrustedProxies(cidrs=cidrs, tenant_header="X-Team")
    auth = Auth(trusted_proxies=proxies, client_steering=True, client_scores=True)
    return Authenticator(auth, keys, demo=demo, listening=listening)


@pytest.mark.parametrize(
    ("host", "tenant"),
    [
        ("10.1.2.3", "acme"),
        ("::ffff:10.1.2.3", "acme"),
        ("::FFFF:0a01:0203", "acme"),
        ("11.1.2.3", ""),
        ("127.0.0.1", ""),
        ("::1", ""),
        (None, ""),
    ],
)
def test_only_a_trusted_proxy_names_the_tenant(host: str | None, tenant: str) -> None:
    for lie in ({}, {"x_forwarded_for": "10.1.2.3"}, {"x_real_ip": "10.1.2.3"}):
        assert keeper("10.0.0.0/8").caller(scope(host, x_team="acme", **lie)).tenant == tenant


def test_a_unix_socket_is_a_trusted_proxy_where_it_is_listed() -> None:
    named = unix_scope(x_team="acme")
    assert keeper("unix", listening=UNIX).caller(named).tenant == "acme"
    assert keeper(listening=UNIX).caller(named).tenant == ""


@pytest.mark.parametrize(
    "pairs",
    [
        [("x-team", "acme"), ("x-team", "other")],
        [("x-team", ""), ("x-team", "acme")],
        [("x-team", "acme, other")],
        [("x-team", "a" * 200)],
        [("x-team", "a\tb")],
    ],
)
def test_a_tenant_that_a_client_could_have_added_to_is_refused(
    pairs: list[tuple[str, str]],
) -> None:
    with pytest.raises(RequestError, match="overwrite what a client sends"):
        keeper("10.0.0.0/8").caller(scope("10.1.2.3", *pairs))
    assert keeper("10.0.0.0/8").caller(scope("11.1.2.3", *pairs)).tenant == ""


def test_a_tenant_is_taken_without_the_spaces_around_it() -> None:
    assert keeper("10.0.0.0/8").caller(scope("10.1.2.3", x_team=" acme ")).tenant == "acme"
    assert keeper("10.0.0.0/8").caller(scope("10.1.2.3")).tenant == ""


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (scope("127.0.0.1"), True),
        (scope("::1"), True),
        (scope("::ffff:127.0.0.1"), True),
        (scope("192.168.0.9"), False),
        (scope("192.168.0.9", x_forwarded_for="127.0.0.1"), False),
        (scope("127.0.0.1", x_forwarded_for="127.0.0.1"), False),
        (scope("127.0.0.1", version="1.0"), False),
        (scope("127.0.0.1", ("host", "127.0.0.1:8000")), True),
        (scope("127.0.0.1", ("host", "page.example:8000")), False),
        (scope(None), False),
    ],
)
def test_the_demo_grants_to_this_machine_alone(asked: dict[str, Any], granted: bool) -> None:
    found = keeper(demo=True).caller(asked)
    assert (found.loopback, found.may_steer, found.may_see_scores) == (granted, granted, granted)
    assert keeper().caller(asked).may_steer


def test_an_address_that_names_tenants_in_vain_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = keeper("10.0.0.0/8")
    for host in ("127.0.0.1", "127.0.0.1", "10.1.2.3", *(f"192.0.2.{i}" for i in range(99))):
        asked.caller(scope(host, x_team="acme"))
        asked.caller(scope(host))
    told = [each.getMessage() for each in caplog.records]
    assert "127.0.0.1" in told[0] and "x-team" in told[0] and "auth.trusted_proxies" in told[0]
    assert len(told) == MAX_TOLD_PEERS == len(set(told))
    assert not [line for line in told if "10.1.2.3" in line]


def test_a_header_that_nobody_is_to_set_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    keeper().caller(scope("127.0.0.1", x_team="acme"))
    assert not caplog.records


def test_a_key_authenticates_and_nothing_else_does() -> None:
    asked = keeper(keys=("secret",))
    assert asked.caller(scope("1.1.1.1", authorization="Bearer secret")).authenticated
    for shown in ("Bearer wrong", "Basic secret", "secret", ""):
        assert not asked.caller(scope("1.1.1.1", authorization=shown)).authenticated


def test_proxies_that_cannot_be_met_stop_the_start_and_a_reload() -> None:
    with pytest.raises(ConfigError, match="cidrs"):
        keeper("10.0.0.0/8", listening=UNIX)


LOCAL = scope("127.0.0.1")


@pytest.mark.parametrize(
    ("door", "asked", "expected"),
    [
        (keeper(listening=LOOPBACK), LOCAL, None),
        (keeper(listening=LOOPBACK), scope("::ffff:127.0.0.1"), None),
        (keeper(listening=LOOPBACK), scope("127.0.0.1", via="1.1 proxy"), (403, "header via")),
        (keeper(listening=LOOPBACK), scope("127.0.0.1", version="1.0"), (403, "HTTP/1.0")),
        (
            keeper(listening=LOOPBACK),
            scope("127.0.0.1", ("host", "a.example")),
            (403, "header host"),
        ),
        (keeper(listening=LOOPBACK), scope("10.0.0.1"), (403, "this machine only")),
        (keeper(), LOCAL, (403, NOT_PRIVATE)),
        (keeper(), scope("10.0.0.1"), (403, "this machine only")),
        (keeper("127.0.0.1/32", listening=LOOPBACK), LOCAL, (403, PROXY_IS_NOBODY)),
        (keeper("127.0.0.1/32", listening=LOOPBACK), scope("127.0.0.2"), None),
        (keeper(listening=UNIX), unix_scope(), None),
        (keeper(listening=UNIX), unix_scope(x_forwarded_for="::1"), (403, "forwarded")),
        (keeper("unix", listening=UNIX), unix_scope(), (403, PROXY_IS_NOBODY)),
        (keeper(keys=("secret",)), scope("10.0.0.1", authorization="Bearer secret"), None),
        (keeper(keys=("secret",)), LOCAL, (401, "API key")),
        (keeper(keys=("secret",), listening=UNIX), unix_scope(), (401, "API key")),
    ],
)
def test_who_is_the_operator(
    door: Authenticator, asked: dict[str, Any], expected: tuple[int, str] | None
) -> None:
    refused = door.caller(asked).not_operator
    if expected is None:
        assert refused is None
    else:
        assert refused is not None
        assert refused.status == expected[0] and expected[1] in refused.reason


def test_the_rollout_is_drawn_by_key_or_peer() -> None:
    asked = keeper("10.0.0.0/8", keys=("secret",))
    of_peer = asked.caller(scope("10.0.0.1", x_forwarded_for="1.2.3.4")).rollout_key
    assert of_peer == asked.caller(scope("::ffff:10.0.0.1")).rollout_key == "10.0.0.1"
    with_key = {
        asked.caller(scope(host, authorization="Bearer secret")).rollout_key
        for host in ("10.0.0.1", "1.2.3.4", None)
    }
    assert len(with_key) == 1 and of_peer not in with_key
