"""Who asks is worked out once, and goes with the request through the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Scope

from pilothouse.config import Auth, TrustedProxies
from pilothouse.server.auth import Authenticator, Caller
from pilothouse.server.middleware import GuardMiddleware
from pilothouse.server.reload.plan_snapshot import PlanSnapshot, PlanSnapshots
from pilothouse.server.response.decisions import DecisionStore
from pilothouse.server.routes import RouteTable
from pilothouse.server.state import STATE_NAME, ServerState
from tests.support.servers.app_parts import admission, body_of, recorded_body, settler, tiny_plan

PATH = "/v1/chat/completions"
PROXIES = TrustedProxies(cidrs=("127.0.0.0/8",), tenant_header="x-team")
GRANTING = Auth(trusted_proxies=PROXIES, client_steering=True, client_scores=True)
STEERED = body_of("chat") | {"pilothouse": {"steer": [{"vector": "nudge", "scale": 0.5}]}}


class CountingAuthenticator(Authenticator):
    """Counts how often it was asked."""

    def __init__(self, auth: Auth = GRANTING, keys: tuple[str, ...] = ()) -> None:
        super().__init__(auth, keys, demo=False)
        self.asked = 0

    def caller(self, scope: Scope) -> Caller:
        """The caller, counted."""
        self.asked += 1
        return super().caller(scope)


class Gate:
    """A gate in front of an app that gives one recorded answer, and what the gate counted."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.snapshots = PlanSnapshots(snapshot(authenticator))
        self.counted: list[tuple[Any, ...]] = []
        app = FastAPI(openapi_url=None)
        for path in (PATH, "/tokenize", "/pilothouse/v1/status"):
            app.add_api_route(path, self._answer, methods=["GET", "POST"])
        state = object.__new__(ServerState)
        state.table = RouteTable()
        state.plan_snapshots = self.snapshots
        state.decision_store = DecisionStore()
        state.settler = settler()
        state.surroundings = SimpleNamespace(renders_chats=False)  # type: ignore[assignment]
        state.metrics = SimpleNamespace(request=lambda *labels: self.counted.append(labels))  # type: ignore[assignment]
        setattr(app.state, STATE_NAME, state)
        app.add_middleware(GuardMiddleware)
        self.app = app

    async def _answer(self, _: Request) -> JSONResponse:
        return JSONResponse(recorded_body("chat"))

    async def ask(
        self,
        path: str,
        body: dict[str, Any],
        *headers: tuple[str, str],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer; `meanwhile` runs while the body is read."""
        sent: list[Message] = []
        shown = (("content-type", "application/json"), *headers)
        scope = {
            "type": "http",
            "method": "POST" if path != "/pilothouse/v1/status" else "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "http_version": "1.1",
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in shown],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }

        async def receive() -> Message:
            meanwhile()
            return {"type": "http.request", "body": json.dumps(body).encode()}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(each["body"] for each in sent[1:]))


def snapshot(authenticator: Authenticator) -> PlanSnapshot:
    return PlanSnapshot(tiny_plan(), authenticator, admission())


async def test_a_request_asks_once_who_it_is_of() -> None:
    authenticator = CountingAuthenticator()
    gate = Gate(authenticator)
    status, _ = await gate.ask(PATH, STEERED, ("x-team", "blue"))
    assert (status, authenticator.asked) == (200, 1)
    assert [each[2] for each in gate.counted] == ["blue"]


async def test_grants_that_went_while_the_body_came_are_gone() -> None:
    before, after = CountingAuthenticator(), CountingAuthenticator(Auth(trusted_proxies=PROXIES))
    gate = Gate(before)
    status, answer = await gate.ask(
        PATH, STEERED, meanwhile=lambda: gate.snapshots.switch(snapshot(after))
    )
    assert (status, answer["error"]["param"]) == (403, "steer")
    assert (before.asked, after.asked) == (1, 1)


async def test_a_refused_caller_is_counted_under_its_tenant() -> None:
    gate = Gate(CountingAuthenticator(keys=("secret",)))
    status, _ = await gate.ask(PATH, STEERED, ("x-team", "blue"))
    assert status == 401 and [each[2:] for each in gate.counted] == [("blue", "reject")]


@pytest.mark.parametrize("path", [PATH, "/tokenize", "/pilothouse/v1/status"])
async def test_a_tenant_that_cannot_be_one_is_refused_at_every_door(path: str) -> None:
    gate = Gate(CountingAuthenticator(keys=("secret",)))
    shown = ("authorization", "Bearer secret")
    assert (await gate.ask(path, STEERED, shown, ("x-team", "blue")))[0] == 200
    status, answer = await gate.ask(path, STEERED, shown, ("x-team", "blue,other"))
    assert status == 400 and "x-team" in answer["error"]["message"]
