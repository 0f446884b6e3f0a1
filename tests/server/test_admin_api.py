"""Who may change what is loaded: nobody who is not on this machine, or who only looks like it."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.server.api import admin_refusal
from pilothouse.server.routes import RouteTable


def scope(client: str | None = "127.0.0.1", **headers: str) -> dict[str, Any]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (client, 1) if client else None, "headers": lines}


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1"])
def test_callers_on_this_machine_may(client: str) -> None:
    assert admin_refusal(scope(client, user_agent="curl", host="localhost")) is None


@pytest.mark.parametrize("client", ["10.0.0.1", "::ffff:10.0.0.1", "/tmp/socket", None])
def test_others_may_not(client: str | None) -> None:
    assert "own machine" in str(admin_refusal(scope(client)))


@pytest.mark.parametrize(
    "header",
    ["forwarded", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto", "x_real_ip", "via"],
)
def test_what_a_proxy_passed_on_may_not(header: str) -> None:
    refusal = str(admin_refusal(scope(**{header: "127.0.0.1"})))
    assert "forwarded" in refusal and header.replace("_", "-") in refusal


def test_a_page_in_a_browser_may_not() -> None:
    assert "browser" in str(admin_refusal(scope(origin="http://localhost:8000")))


def test_admin_routes_have_their_methods_and_one_segment() -> None:
    judge = RouteTable().judge
    assert judge("POST", "/pilothouse/v1/reload").kind == "admin"
    assert judge("GET", "/pilothouse/v1/reload").allowed_methods == ("POST",)
    for method in ("PUT", "DELETE"):
        verdict = judge(method, "/pilothouse/v1/vectors/cheerful")
        assert verdict.kind == "admin" and not verdict.allowed_methods
    assert judge("GET", "/pilothouse/v1/vectors/cheerful").allowed_methods == ("PUT", "DELETE")
    for path in ("/pilothouse/v1/vectors", "/pilothouse/v1/vectors/", "/pilothouse/v1/vectors/a/b"):
        assert judge("PUT", path).kind == "denied"
