"""Paths that are not served: what the app would route is denied, what it would not is vLLM's 404.

Every spelling is put to a real router beside the gate: none reaches a handler ungoverned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Message, Scope
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

from pilothouse.config import Auth
from pilothouse.server import middleware as gate_module
from pilothouse.server.auth import Authenticator
from pilothouse.server.middleware import GuardMiddleware
from pilothouse.server.routes import DENIED, GOVERNED, HARMLESS, RouteTable
from pilothouse.server.state import STATE_NAME, ServerState, state_of

TRICKS = (
    "/v1/chat/completions/",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat/completions//",
    "/V1/chat/completions",
    "/v1/Chat/Completions",
    "/v1/chat/completions%0a",
    "/v1/chat/completions%0a/",
    "/v1/chat/completions%00",
    "/v1/chat/completions%20",
    "/v1/chat/completions%2f",
    "/v1/chat%2fcompletions%2f",
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/v1/chat/completions/.",
    "/v1/chat/completions;x",
    "/v1/chat/completions%3f",
    "/v1/chat/completions%23x",
    "/v1/chat/completions%5c",
    "/%2fv1/chat/completions",
    "/root/v1/chat/completions",
    "/root//v1/chat/completions",
    "/rootv1/chat/completions",
    "/root/root/v1/chat/completions",
    "/v1/completions%0a",
    "/v1/responses%0a",
    "/v1/responses/resp_1%0a",
    "/metrics/v1/chat",
    "/metricsx",
    "/side/anything/at/all",
    "/inner/deep/",
    "/inner/deep",
    "/\uff56\uff11/chat",
    "/v1/models%0a",
    "/v1/models/small",
    "/pilothouse/v1/reload%0a",
)


@dataclass
class House:
    """An app with handlers that tell which path ran, and a gate in front of it."""

    root_path: str = ""
    ran: list[str] = field(default_factory=list)
    counted: list[tuple[Any, ...]] = field(default_factory=list)
    app: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        self.app = FastAPI(openapi_url=None)
        self.app.root_path = self.root_path
        for path in (*GOVERNED, *DENIED, "/v1/models", "/pilothouse/v1/reload"):
            self._route(self.app.router, path)
        inner = APIRouter(prefix="/inner")
        self._route(inner, "/deep")
        self.app.include_router(inner)
        self.app.routes.append(Mount("/side", routes=[Route("/known", self._handler("/side"))]))
        self.app.routes.append(Mount("/metrics", app=self._mounted))
        state = object.__new__(ServerState)
        state.table = RouteTable()
        state.metrics = SimpleNamespace(request=lambda *labels: self.counted.append(labels))  # type: ignore[assignment]
        setattr(self.app.state, STATE_NAME, state)
        self.app.add_middleware(GuardMiddleware)

    def _handler(self, path: str) -> Any:
        async def handle(_: Request) -> JSONResponse:
            self.ran.append(path)
            return JSONResponse({})

        return handle

    def _route(self, router: APIRouter, path: str) -> None:
        router.routes.append(
            Route(router.prefix + path, self._handler(path), methods=["GET", "POST"])
        )

    async def _mounted(self, scope: Scope, receive: Any, send: Any) -> None:
        self.ran.append("/metrics")
        await JSONResponse({})(scope, receive, send)

    async def ask(
        self, path: str, method: str = "POST", query: bytes = b"", kind: str = "http"
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; `path` is as a client writes it, and unquoted as uvicorn."""
        sent: list[Message] = []
        scope = {
            "type": kind,
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "http_version": "1.1",
            "scheme": "http",
            "headers": [(b"host", b"evil.example")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }

        async def receive() -> Message:
            return {"type": f"{kind}.request" if kind == "http" else "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        if kind == "websocket":
            return sent[0]["code"], {}, b""
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, b"".join(each["body"] for each in sent[1:])


def denied(count: int = 1) -> list[tuple[Any, ...]]:
    return [(None, "other", "", "deny")] * count


@pytest.fixture
def governed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reached the governing half of the gate."""
    seen: list[str] = []

    async def govern(
        _: GuardMiddleware, __: Any, ___: Any, scope: Scope, ____: Any, send: Any
    ) -> None:
        seen.append(scope["path"])
        await JSONResponse({})(scope, None, send)  # type: ignore[arg-type]

    monkeypatch.setattr(gate_module.GuardMiddleware, "_governed", govern)
    return seen


@pytest.mark.parametrize("root_path", ["", "/root", "/root/", "/"])
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "OPTIONS"])
async def test_no_spelling_reaches_a_handler_that_the_gate_did_not_mean(
    governed: list[str], root_path: str, method: str
) -> None:
    house = House(root_path)
    for trick in TRICKS:
        before = len(governed)
        status, headers, _ = await house.ask(trick, method)
        if len(governed) > before:
            assert method == "POST" and status == 200
        elif status == 307:
            assert headers["location"].startswith("/") and headers["location"][1] != "/"
        elif status == 405:
            assert method != "POST"
        else:
            assert status in (403, 404), (trick, status)
    assert house.ran == [], "a handler ran that the gate had not let through"


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/models/small", "/v1/x", "//v1/models", "/V1/models"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_path_that_the_app_has_not_is_a_404(path: str, method: str) -> None:
    house = House()
    status, _, body = await house.ask(path, method)
    assert (status, json.loads(body)) == (404, {"detail": "Not Found"})
    assert house.counted == denied()


@pytest.mark.parametrize("path", ["/v1/models/small", "/v1/models/", "/v1/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_said_of_such_a_path_is_what_vllm_says(path: str, method: str) -> None:
    plain = FastAPI(openapi_url=None)
    plain.router.routes.append(Route("/v1/models", lambda _: JSONResponse({}), methods=["GET"]))
    init_exception_handler(plain)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(plain), base_url="http://evil.example"
    ) as client:
        answer = await client.request(method, path)
    status, headers, body = await House().ask(path, method)
    assert (status, body) == (answer.status_code, answer.content)
    told = answer.headers.get("location", "").removeprefix("http://evil.example")
    assert headers.get("location", "") == told
    assert headers.get("content-type") == answer.headers.get("content-type")


@pytest.mark.parametrize(
    "path",
    [
        "/inner/deep",
        "/side/known",
        "/side/unknown",
        "/v1/models%0a",
        "/v1/responses/resp_1",
        "/v1/completions%0a",
    ],
)
async def test_a_path_that_the_app_would_route_somewhere_unknown_is_denied(path: str) -> None:
    house = House()
    status, _, body = await house.ask(path)
    assert (status, json.loads(body)["error"]["code"]) == (403, "route_denied")
    assert house.ran == [] and house.counted == denied()


async def test_known_generating_routes_are_denied_where_the_app_has_none_too() -> None:
    house = House()
    house.app.router.routes[:] = []
    for path in DENIED:
        assert (await house.ask(path))[0] == 403, path
    assert (await house.ask("/v1/other"))[0] == 404


async def test_a_route_that_cannot_tell_counts_as_one() -> None:
    class Odd:
        def matches(self, _: Scope) -> Any:
            raise ValueError("odd")

    house = House()
    house.app.router.routes.insert(0, Odd())  # type: ignore[arg-type]
    assert (await house.ask("/nowhere"))[0] == 403


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        ("/v1/chat/completions/", b"", "/v1/chat/completions"),
        ("/v1/completions///", b"a=1&b=%0d%0a", "/v1/completions?a=1&b=%0d%0a"),
        ("/v1/models/", b"x\xff y", "/v1/models?x%FF%20y"),
        ("/pilothouse/v1/reload/", b"", "/pilothouse/v1/reload"),
    ],
)
async def test_a_slash_too_many_is_a_307_as_vllms_without_the_clients_host(
    path: str, query: bytes, location: str
) -> None:
    house = House()
    status, headers, body = await house.ask(path, "POST", query)
    assert (status, headers["location"], body) == (307, location, b"")
    assert house.ran == [] and house.counted == []


@pytest.mark.parametrize("path", ["/v1/messages/", "/inner/deep/", "/v1/chat/completions%0a/", "/"])
async def test_nobody_is_sent_to_what_is_denied(path: str) -> None:
    house = House()
    assert (await house.ask(path))[0] in (403, 404)
    assert house.ran == []


async def test_a_redirect_under_a_root_path_keeps_it_and_names_no_host() -> None:
    assert (await House("/llm").ask("/llm/v1/models/"))[1]["location"] == "/llm/v1/models"
    status, headers, _ = await House("/").ask("//v1/models/")
    assert status == 404 or headers["location"] == "/v1/models"


@pytest.mark.parametrize("root_path", ["", "/", "/root", "/root/"])
async def test_whoever_shows_no_key_reaches_no_handler(root_path: str) -> None:
    house = House(root_path)
    state = state_of(house.app.state)
    assert state is not None
    authenticator = Authenticator(Auth(), ("secret",), demo=False)
    state.plan_snapshots = SimpleNamespace(newest=SimpleNamespace(authenticator=authenticator))  # type: ignore[assignment]
    for path in GOVERNED:
        status, _, body = await house.ask(path)
        assert (status, json.loads(body)) == (401, {"error": "Unauthorized"})
    assert house.ran == []
    assert [each[3] for each in house.counted] == ["reject"] * len(GOVERNED)


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/chat/completions", "/nowhere"])
async def test_a_websocket_is_refused_and_counted(path: str) -> None:
    house = House()
    house.app.router.routes.append(WebSocketRoute(path, house._handler(path)))
    assert (await house.ask(path, kind="websocket"))[0] == 1008
    assert house.ran == [] and house.counted == denied()


@pytest.mark.parametrize(("path", "endpoint"), tuple(GOVERNED.items()))
async def test_other_methods_of_a_governed_route_are_counted_once(path: str, endpoint: str) -> None:
    house = House()
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        status, headers, _ = await house.ask(path, method)
        assert (status, headers["allow"]) == (405, "POST")
    assert (await house.ask(path, "OPTIONS"))[0] == 405
    assert house.counted == [(None, endpoint, "", "reject")] * 5
    assert house.ran == []


async def test_harmless_routes_and_their_wrong_methods_are_not_counted() -> None:
    house = House()
    for path in HARMLESS:
        await house.ask(path, "DELETE")
    assert house.counted == []
