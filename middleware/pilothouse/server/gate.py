"""The gate: outermost ASGI middleware. What it does not let through does not exist."""

from __future__ import annotations

import logging

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pilothouse.errors import RequestError
from pilothouse.server.admin import admin_refusal
from pilothouse.server.answer import error_body, request_error_body, send_json
from pilothouse.server.body import encoded, parsed, read_body, replayed, with_length
from pilothouse.server.chat import Chat
from pilothouse.server.completions import Completions
from pilothouse.server.cross_origin import readable
from pilothouse.server.exchange import Exchange
from pilothouse.server.family import Family
from pilothouse.server.models import with_profiles
from pilothouse.server.routes import OWN_OPEN, RouteVerdict
from pilothouse.server.state import GateState, state_of
from pilothouse.telemetry.metrics import RequestAction

logger = logging.getLogger(__name__)

MAX_SHOWN_PATH = 200
OTHER_ENDPOINT = "other"
BODILESS = ("GET", "HEAD", "OPTIONS")
JSON = "application/json"

FAMILIES: dict[str, Family] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completions(),
}


class Gate:
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
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not governed"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope["app"].state)
        if state is None:
            text = "Pilothouse's endpoint plugin is not loaded, so nothing is served; see the log"
            await send_json(send, 503, error_body(text, status=503, code="pilothouse_not_ready"))
            return
        path, method = get_route_path(scope), scope["method"]
        verdict = state.table.judge(method, path)
        if verdict.allowed_methods:
            await _wrong_method(send, method, path, verdict)
        elif verdict.kind == "denied":
            state.metrics.request(None, OTHER_ENDPOINT, "", "deny")
            await _deny(send, method, path, verdict)
        elif verdict.kind == "governed" and method == "POST":
            await self._governed(state, FAMILIES[path], _clean(scope), receive, send)
        elif verdict.kind in ("own", "admin") and method != "OPTIONS":
            await self._own(state, path, verdict, scope, receive, send)
        elif path == "/v1/models" and method == "GET":
            await with_profiles(self._app, state, scope, receive, send)
        elif verdict.needs_key and not _has_key(state, scope) and method != "OPTIONS":
            text = f"{path} is for callers with an API key"
            await send_json(send, 401, error_body(text, status=401, code="not_authorized"))
        else:
            await self._bounded(state, scope, receive, send)

    async def _own(
        self,
        state: GateState,
        path: str,
        verdict: RouteVerdict,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        doorkeeper = state.editions.newest.doorkeeper
        refusal = admin_refusal(scope) if verdict.kind == "admin" else None
        if refusal is not None:
            text = f"{ascii(path)[1:-1]} changes what is loaded: {refusal}"
            body = error_body(text, status=403, code="not_authorized")
            await send_json(send, 403, body)
            return
        if path in OWN_OPEN or doorkeeper.is_operator(scope):
            await self._bounded(state, scope, receive, send)
            return
        text = (
            f"{path} is for callers with an API key" if doorkeeper.keyed
            else f"{path} is for this machine only while the server has no --api-key"
        )  # fmt: skip
        status = 401 if doorkeeper.keyed else 403
        await send_json(send, status, error_body(text, status=status, code="not_authorized"))

    async def _bounded(self, state: GateState, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on what is not governed: its body is within bounds all the same."""
        if scope["method"] in BODILESS:
            await self._app(scope, receive, send)
            return
        limits = state.editions.newest.admission.limits
        try:
            raw = await read_body(scope, receive, limits)
            if raw is None:
                return
            if raw and _may_be_json(scope):
                parsed(raw, limits)
        except RequestError as error:
            await send_json(send, error.status, request_error_body(error))
            return
        await self._app(with_length(scope, len(raw)), replayed(raw, receive), send)

    async def _governed(
        self, state: GateState, family: Family, scope: Scope, receive: Receive, send: Send
    ) -> None:
        tenant, model = "", None
        outcome: RequestAction = "reject"
        try:
            doorkeeper = state.editions.newest.doorkeeper
            caller = doorkeeper.caller(scope)
            tenant = caller.tenant
            if doorkeeper.keyed and not caller.authenticated:
                await self._app(scope, receive, send)  # a 401, without a look at the body
                return
            limits = state.editions.newest.admission.limits
            raw = await read_body(scope, receive, limits)
            if raw is None:
                outcome = "abort"
                return
            if not _is_json(scope):  # never sealed: vLLM refuses it
                await self._app(with_length(scope, len(raw)), replayed(raw, receive), send)
                return
            body = parsed(raw, limits)
            with state.editions.admitting() as edition:
                caller = edition.doorkeeper.caller(scope)
                admitted = edition.admission.admit(body, family.endpoint, caller)
                raw = encoded(body)
                model = admitted.model_label
                exchange = Exchange(
                    family, admitted, state.ledger.open(admitted.decision_id), state.settler, send
                )
                outcome = "error"
                try:
                    await self._app(
                        with_length(scope, len(raw)), replayed(raw, receive), exchange.send
                    )
                    outcome = exchange.outcome
                finally:
                    state.ledger.close(admitted.decision_id)
        except RequestError as error:
            await send_json(send, error.status, request_error_body(error))
        finally:
            state.metrics.request(model, family.endpoint, tenant, outcome)


def _is_json(scope: Scope) -> bool:
    kind = Headers(scope=scope).get("content-type", "").lower()
    return kind.split(";", maxsplit=1)[0].strip() == JSON


def _may_be_json(scope: Scope) -> bool:
    """FastAPI takes a body of no stated kind, and any kind of JSON, for JSON."""
    kind = Headers(scope=scope).get("content-type", "").lower().split(";", maxsplit=1)[0].strip()
    return not kind or kind.endswith("json")


def _has_key(state: GateState, scope: Scope) -> bool:
    doorkeeper = state.editions.newest.doorkeeper
    return not doorkeeper.keyed or doorkeeper.caller(scope).authenticated


def _clean(scope: Scope) -> Scope:
    """Our own header names are ours: a client's are dropped."""
    headers = [each for each in scope["headers"] if not each[0].startswith(b"x-pilothouse-")]
    return {**scope, "headers": headers}


async def _deny(send: Send, method: str, path: str, verdict: RouteVerdict) -> None:
    shown = path[:MAX_SHOWN_PATH].encode("utf-8", "replace").decode()
    text = (
        f"{method} {shown} is not served: {verdict.reason}. If it runs no model, the operator can "
        "list it under gate.allow"
    )
    logger.warning("denied %s %s", method, ascii(shown))
    await send_json(send, 403, error_body(text, status=403, code="route_denied"))


async def _wrong_method(send: Send, method: str, path: str, verdict: RouteVerdict) -> None:
    allowed = ", ".join(verdict.allowed_methods)
    text = f"{method} {path}: want {allowed}"
    body = error_body(text, status=405, code="method_not_allowed")
    await send_json(send, 405, body, {"allow": allowed})
