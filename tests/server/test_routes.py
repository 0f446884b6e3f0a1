"""The route table: nothing is let through that nobody has named."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import Mount

from pilothouse.errors import ConfigError
from pilothouse.server.routes import (
    DENIED,
    GENERATING,
    GOVERNED,
    HARMLESS,
    OWN,
    RouteTable,
    inventory,
    refuse_unknown,
)


def test_no_route_has_two_verdicts() -> None:
    paths = [*GOVERNED, *HARMLESS, *OWN, *DENIED]
    assert len(paths) == len(set(paths))


def test_what_nobody_named_is_denied() -> None:
    table = RouteTable()
    for path in (
        "/new",
        "/v1/chat/completions/",
        "/v1/Models",
        "",
        "/metricsx",
        "/pilothouse/v1/x",
    ):
        assert table.judge("GET", path).kind == "denied", path


def test_a_governed_route_takes_post_alone() -> None:
    for method in ("GET", "PUT", "HEAD", "DELETE"):
        assert RouteTable().judge(method, "/v1/completions").allowed_methods == ("POST",)
    assert RouteTable().judge("POST", "/v1/completions").allowed_methods == ()


@pytest.mark.parametrize("path", sorted(GENERATING))
def test_the_operator_cannot_allow_what_generates(path: str) -> None:
    with pytest.raises(ConfigError, match="runs no model"):
        RouteTable([path])


def test_the_operator_can_allow_what_does_not() -> None:
    table = RouteTable(["/server_info"])
    assert table.judge("GET", "/server_info").kind == "harmless"
    with pytest.raises(ConfigError, match="want a path"):
        RouteTable(["server_info"])


def test_the_inventory_finds_nested_and_mounted_routes() -> None:
    app = FastAPI(openapi_url=None)
    inner = APIRouter(prefix="/inner")
    inner.add_api_route("/deep", lambda: None, methods=["POST"])
    app.include_router(inner)
    app.routes.append(Mount("/side", routes=FastAPI(openapi_url="/spec").routes))
    app.add_api_route("/health", lambda: None)
    found = {entry.path: entry for entry in inventory(app.routes, RouteTable())}
    assert found["/inner/deep"].methods == ("POST",) and not found["/inner/deep"].known
    assert found["/side/spec"].kind == "denied"
    assert found["/health"].kind == "harmless" and found["/health"].known


def test_an_unknown_route_stops_the_start_when_asked_to() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/surprise", lambda: None)
    with pytest.raises(ConfigError, match="/surprise"):
        refuse_unknown(inventory(app.routes, RouteTable()))
    refuse_unknown(inventory(app.routes, RouteTable(["/surprise"])))


def test_what_works_for_whoever_asks_needs_a_key() -> None:
    table = RouteTable()
    posts = [path for path, each in HARMLESS.items() if "POST" in each.methods]
    assert {path for path in posts if not table.judge("POST", path).needs_key} == {"/ping"}
