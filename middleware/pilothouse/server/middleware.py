"""The gate: outermost ASGI middleware. What it does not let through does not exist."""

from __future__ import annotations

from typing import Any

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse.errors import RequestError
from pilothouse.server.answers import error_body, plainly, request_error_body, send_json
from pilothouse.server.api import admin_refusal
from pilothouse.server.auth import NOBODY, Caller, Refused
from pilothouse.server.body import (
    content_type,
    encoded,
    parsed_aside,
    read_body,
    refuse_other_content,
    sent_on,
)
from pilothouse.server.check.contracts.registry import CONTRACTS
from pilothouse.server.check.gate import CheckCall
from pilothouse.server.endpoints.base import Answer, Endpoint
from pilothouse.server.endpoints.registry import BY_PATH
from pilothouse.server.models import with_profiles
from pilothouse.server.not_served import (
    MAX_SHOWN_PATH,
    answer_denied,
    answer_moved,
    answer_wrong_method,
    moved_to,
)
from pilothouse.server.refused_fields import refuse_request_id_header
from pilothouse.server.request_schema import Unreadable
from pilothouse.server.rescoring import Rescorer, rescored
from pilothouse.server.response.exchange import Exchange
from pilothouse.server.routes import OWN_OPEN, RouteVerdict, check_of
from pilothouse.server.state import ServerState, state_of
from pilothouse.telemetry.metrics import RequestAction


def readable(scope: Scope, send: Send) -> Send:
    """A `send` that marks answers by the origins vLLM was given, where it has not done so itself.

    The gate stands outside vLLM's own marking (`--allowed-origins`), so what it answers itself
    would reach a browser's page as a network error without a text.
    """
    headers = Headers(scope=scope)
    allowed = _allowed(scope["app"])
    if allowed is None or "origin" not in headers:
        return send
    marking = CORSMiddleware(scope["app"], **allowed)

    async def marked(message: Message) -> None:
        is_start = message["type"] == "http.response.start"
        if is_start and "access-control-allow-origin" not in Headers(raw=message["headers"]):
            await marking.send(message, send=send, request_headers=headers)
        else:
            await send(message)

    return marked


def _allowed(app: Any) -> dict[str, Any] | None:
    return next((each.kwargs for each in app.user_middleware if each.cls is CORSMiddleware), None)


class Disconnect:
    """Stands between the server and the app, and remembers that the client has gone.

    vLLM goes on to answer a client that has gone, with `null` or an error that it met while it
    stopped: nobody reads that, and it says nothing about the request.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.status = 0
        """Of the answer, once it has begun."""
        self._gone = False
        self._receive = receive
        self._send = send
        self._answered = False

    async def receive(self) -> Message:
        """The server's next message; after a whole answer it tells of a disconnect, too."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._answered:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on while there is a client."""
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    def outcome_or(self, outcome: RequestAction) -> RequestAction:
        """What became of the request: nothing of it counts where the client did not wait."""
        return "abort" if self._gone else outcome


OTHER_ENDPOINT = "other"
BODILESS = ("GET", "HEAD", "OPTIONS")
UNAUTHORIZED = {"error": "Unauthorized"}
"""vLLM's own words; whether a path wants a key is not left to how it reads the path."""


class GuardMiddleware:
    """Judges every request by its route, governs the generating ones."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, readable(scope, send))
        elif scope["type"] == "websocket":
            state = state_of(scope["app"].state)
            if state is not None:
                state.metrics.request(None, OTHER_ENDPOINT, "", "deny")
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not governed"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope["app"].state)
        if state is None:
            text = "Pilothouse's endpoint plugin is not loaded, so nothing is served; see the log"
            await send_json(send, 503, error_body(text, status=503, code="pilothouse_not_ready"))
            return
        try:
            refuse_request_id_header(scope)
        except RequestError as error:
            state.metrics.request(None, OTHER_ENDPOINT, "", "reject")
            await send_json(send, error.status, request_error_body(error))
            return
        path, method = get_route_path(scope), scope["method"]
        verdict = state.table.judge(method, path)
        check = check_of(path) if verdict.kind == "check" else None
        if verdict.kind == "governed" and method == "POST":
            await self._governed(state, BY_PATH[path], _clean(scope), receive, send)
        elif check is not None and method == "POST":
            name, segments = check
            call = CheckCall(state, CONTRACTS[name], self._app, _clean(scope), segments)
            await call.answer(receive, send)
        elif verdict.kind == "governed":
            await self._ungoverned_method(state, BY_PATH[path], verdict, scope, receive, send)
        elif verdict.allowed_methods:
            await answer_wrong_method(send, scope, verdict)
        elif verdict.kind == "denied":
            await _not_served(state, verdict, scope, send)
        elif verdict.kind in ("own", "admin") and method != "OPTIONS":
            await self._own(state, path, verdict, scope, receive, send)
        elif path == "/v1/models" and method == "GET":
            await with_profiles(self._app, state, scope, receive, send)
        elif verdict.needs_key and method != "OPTIONS":
            await self._keyed(state, path, scope, receive, send)
        else:
            await self._bounded(state, scope, receive, send)

    async def _own(
        self,
        state: ServerState,
        path: str,
        verdict: RouteVerdict,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        refusal = admin_refusal(scope) if verdict.kind == "admin" else None
        refused = None if refusal is None else Refused(403, f"it changes what is loaded: {refusal}")
        if refused is None and path not in OWN_OPEN:
            caller = _caller(state, scope)
            refused = caller if isinstance(caller, Refused) else caller.not_operator
        if refused is None:
            await self._bounded(state, scope, receive, send)
            return
        text = f"{ascii(path[:MAX_SHOWN_PATH])[1:-1]} is refused: {refused.reason}"
        body = error_body(text, status=refused.status, code="not_authorized")
        await send_json(send, refused.status, body)

    async def _keyed(
        self, state: ServerState, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Hand on what is for whoever shows a key, where the server has keys."""
        caller = _caller(state, scope)
        if isinstance(caller, Refused):
            body = error_body(caller.reason, status=caller.status, code="not_authorized")
            await send_json(send, caller.status, body)
        elif caller.lacks_key:
            text = f"{path} is for callers with an API key"
            await send_json(send, 401, error_body(text, status=401, code="not_authorized"))
        else:
            await self._bounded(state, scope, receive, send)

    async def _bounded(
        self, state: ServerState, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Hand on what is not governed: its body is within bounds all the same."""
        if scope["method"] in BODILESS:
            await self._app(scope, receive, send)
            return
        limits = state.plan_snapshots.newest.admission.limits
        try:
            raw = await read_body(scope, receive, limits)
            if raw is None:
                return
            if raw and _may_be_json(scope):
                encoded(await parsed_aside(raw, limits))  # what it quotes can be sent
        except RequestError as error:
            await send_json(send, error.status, request_error_body(error))
            return
        await self._app(*sent_on(scope, raw, receive), send)

    async def _governed(
        self, state: ServerState, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send
    ) -> None:
        client = Disconnect(receive, send)
        receive, send = client.receive, client.send
        caller, model = NOBODY, None
        outcome: RequestAction = "reject"
        try:
            asked_under = state.plan_snapshots.newest
            caller = asked_under.authenticator.caller(scope)
            if caller.lacks_key:
                await send_json(send, 401, UNAUTHORIZED)
                return
            refuse_other_content(scope)
            limits = asked_under.admission.limits
            raw = await read_body(scope, receive, limits)
            if raw is None:
                return
            body = await parsed_aside(raw, limits)
            await endpoint.refuse_large(body, limits)
            with state.plan_snapshots.admitting() as plan_snapshot:
                if plan_snapshot is not asked_under:  # reloaded while the body came
                    caller = plan_snapshot.authenticator.caller(scope)
                try:
                    admitted = plan_snapshot.admission.admit(
                        body, endpoint.name, caller, endpoint.read
                    )
                except Unreadable:
                    # Without a seal: should vLLM take it after all, the scheduler does not.
                    await self._app(*sent_on(scope, encoded(body), receive), send)
                    return
                raw = encoded(body)
                model = admitted.model_label
                entry = state.decision_store.open(admitted.decision_id)
                outcome = "error"
                try:
                    forced = None
                    if admitted.requirements.holds_start and state.renders_chats:
                        scorer = Rescorer(
                            self._app,
                            scope,
                            plan_snapshot.admission,
                            state.decision_store,
                            admitted,
                        )
                        found = await rescored(scorer, endpoint, entry, pins_tools=state.pins_tools)
                        admitted, forced = found.admitted, found.forced
                        raw = encoded(endpoint.shortest(body)) if found.blocked else raw
                    answer = Answer(admitted, entry, state.settler)
                    exchange = Exchange(endpoint, answer, send, forced)
                    try:
                        await self._app(*sent_on(plainly(scope), raw, receive), exchange.send)
                    except Exception:
                        if not await exchange.answered_failure():
                            raise
                    outcome = exchange.outcome
                finally:
                    state.decision_store.close(admitted.decision_id)
        except RequestError as error:
            await send_json(send, error.status, request_error_body(error))
        finally:
            state.metrics.request(model, endpoint.name, caller.tenant, client.outcome_or(outcome))

    async def _ungoverned_method(
        self,
        state: ServerState,
        endpoint: Endpoint,
        verdict: RouteVerdict,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """A governed route asked by another method than POST: counted, and nothing runs."""
        client = Disconnect(receive, send)
        try:
            if verdict.allowed_methods:
                await answer_wrong_method(client.send, scope, verdict)
            else:  # OPTIONS, which a browser asks before it posts to another origin
                await self._app(scope, client.receive, client.send)
        finally:
            outcome: RequestAction = "allow" if 200 <= client.status < 300 else "reject"
            state.metrics.request(None, endpoint.name, "", client.outcome_or(outcome))


def _may_be_json(scope: Scope) -> bool:
    """FastAPI takes a body of no stated kind, and any kind of JSON, for JSON."""
    kind = content_type(scope).strip()
    return not kind or kind.endswith("json")


def _caller(state: ServerState, scope: Scope) -> Caller | Refused:
    """Who asks for a route that is not governed, or why nobody can be told to."""
    try:
        return state.plan_snapshots.newest.authenticator.caller(scope)
    except RequestError as error:
        return Refused(error.status, str(error))


def _clean(scope: Scope) -> Scope:
    """Our own header names are ours: a client's are dropped."""
    headers = [each for each in scope["headers"] if not each[0].startswith(b"x-pilothouse-")]
    return {**scope, "headers": headers}


async def _not_served(state: ServerState, verdict: RouteVerdict, scope: Scope, send: Send) -> None:
    location = moved_to(scope, state.table)
    if location is not None:
        await answer_moved(send, location)
        return
    state.metrics.request(None, OTHER_ENDPOINT, "", "deny")
    await answer_denied(send, scope, verdict)
