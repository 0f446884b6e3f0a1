"""A running server behind a real nginx: whose word counts for what, and who stays a stranger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.servers.nginx import nginx_before
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.tiny_deployment import (
    MESSAGE,
    PROXY_ADDRESS,
    SERVED_NAME,
    TENANT,
    TENANT_HEADER,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

BODY = {
    "model": SERVED_NAME,
    "messages": [{"role": "user", "content": "the tide"}],
    "max_tokens": 2,
}
FORWARDING = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
LIE = {
    TENANT_HEADER: TENANT,
    "x-forwarded-for": f"127.0.0.1, {PROXY_ADDRESS}",
    "x-real-ip": PROXY_ADDRESS,
    "forwarded": f"for={PROXY_ADDRESS}",
}
"""What a client sends that would like to be the proxy."""


@pytest.fixture(scope="module")
def of_tenant(
    small_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A proxy that is trusted, says from whom it forwards, and serves one tenant."""
    named = f"proxy_set_header {TENANT_HEADER} {TENANT};"
    bound = f"proxy_bind {PROXY_ADDRESS};"
    folder = tmp_path_factory.mktemp("nginx")
    with nginx_before(small_server.url, folder, (bound, named, FORWARDING)) as url:
        yield url


@pytest.fixture(scope="module")
def plain_proxy(
    small_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A proxy on this machine that nobody trusts and that says nothing of itself."""
    silent = ("proxy_http_version 1.1;", "proxy_set_header Host $host;")
    with nginx_before(small_server.url, tmp_path_factory.mktemp("nginx"), silent) as url:
        yield url


def chat(url: str, headers: dict[str, str] | None = None) -> Any:
    answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, headers=headers, timeout=60)
    assert answer.status_code == 200
    return answer.json()["choices"][0]["message"]


@pytest.mark.parametrize("lie", [{}, LIE, LIE | {TENANT_HEADER: "other"}])
def test_a_tenants_policy_applies_behind_a_proxy_whatever_its_client_says(
    small_server: ServerProcess, of_tenant: str, lie: dict[str, str]
) -> None:
    before = small_server.metric("pilothouse_requests_total", tenant_class=TENANT, action="block")
    assert chat(of_tenant, lie)["refusal"] == MESSAGE
    after = small_server.metric("pilothouse_requests_total", tenant_class=TENANT, action="block")
    assert after == before + 1


def test_nobody_else_can_be_that_tenant(small_server: ServerProcess, plain_proxy: str) -> None:
    for url in (small_server.url, plain_proxy):
        for lie in ({}, LIE):
            assert chat(url, lie)["refusal"] is None


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "reload"), ("GET", "status"), ("GET", "catalogue")]
)
def test_a_proxy_on_this_machine_makes_nobody_the_operator(
    of_tenant: str, plain_proxy: str, method: str, path: str
) -> None:
    asked = {"host": "inference.example"}
    for url, told in ((of_tenant, "proxies|x-forwarded-for"), (plain_proxy, "header host")):
        answer = httpx.request(method, f"{url}/pilothouse/v1/{path}", headers=asked, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_authorized")
        assert re.search(told, answer.json()["error"]["message"])


def test_what_a_load_balancer_asks_is_answered(of_tenant: str, plain_proxy: str) -> None:
    for url in (of_tenant, plain_proxy):
        assert httpx.get(f"{url}/pilothouse/v1/ready", timeout=60).status_code == 200
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
