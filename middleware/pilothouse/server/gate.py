"""The gate: outermost ASGI middleware. What it does not let through does not exist."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse.errors import RequestError
from pilothouse.log_text import log_text
from pilothouse.server.admin import admin_refusal
from pilothouse.server.answer import (
    encode,
    error_body,
    plainly,
    request_error_body,
    send_json,
)
from pilothouse.server.chat import Chat
from pilothouse.server.completions import Completions
from pilothouse.server.cross_origin import readable
from pilothouse.server.exchange import Exchange
from pilothouse.server.family import Family
from pilothouse.server.models import with_profiles
from pilothouse.server.request_id import refuse_request_id_header
from pilothouse.server.request_schema import Unreadable
from pilothouse.server.rescoring import Rescorer, rescored, shortest
from pilothouse.server.routes import OWN_OPEN, RouteVerdict
from pilothouse.server.state import GateState, state_of
from pilothouse.telemetry.metrics import RequestAction

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_SHOWN_PATH = 200
OTHER_ENDPOINT = "other"

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
        try:
            refuse_request_id_header(scope)
        except RequestError as error:
            state.metrics.request(None, OTHER_ENDPOINT, "", "reject")
            await send_json(send, error.status, request_error_body(error))
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
        else:
            await self._app(scope, receive, send)

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
            await self._app(scope, receive, send)
            return
        text = (
            f"{path} is for callers with an API key" if doorkeeper.keyed
            else f"{path} is for this machine only while the server has no --api-key"
        )  # fmt: skip
        status = 401 if doorkeeper.keyed else 403
        await send_json(send, status, error_body(text, status=status, code="not_authorized"))

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
                await self._app(scope, receive, send)  # vLLM's own 401
                return
            _refuse_other_content(scope)
            raw = await _read_body(scope, receive)
            if raw is None:
                outcome = "abort"
                return
            body = _parsed(raw)
            with state.editions.admitting() as edition:
                caller = edition.doorkeeper.caller(scope)
                try:
                    admitted = edition.admission.admit(body, family.endpoint, caller)
                except Unreadable:
                    # Without a seal: should vLLM take it after all, the scheduler does not.
                    await self._app(*_sent_on(scope, _encoded(body), receive), send)
                    return
                raw = _encoded(body)
                model = admitted.model_label
                entry = state.ledger.open(admitted.decision_id)
                outcome = "error"
                try:
                    forced = None
                    if admitted.exposure.holds_start and state.renders_chats:
                        scorer = Rescorer(
                            self._app, scope, edition.admission, state.ledger, admitted
                        )
                        found = await rescored(
                            scorer, body, family, entry, pins_tools=state.pins_tools
                        )
                        admitted, forced = found.admitted, found.forced
                        raw = _encoded(shortest(body)) if found.blocked else raw
                    exchange = Exchange(family, admitted, entry, state.settler, send, forced)
                    await self._app(*_sent_on(plainly(scope), raw, receive), exchange.send)
                    outcome = exchange.outcome
                finally:
                    state.ledger.close(admitted.decision_id)
        except RequestError as error:
            await send_json(send, error.status, request_error_body(error))
        finally:
            state.metrics.request(model, family.endpoint, tenant, outcome)


def _refuse_other_content(scope: Scope) -> None:
    """Of content types vLLM reads this one alone, and compares it to the letter.

    Raises:
        RequestError: another one, or none.
    """
    kind = Headers(scope=scope).get("content-type", "").lower().split(";", maxsplit=1)[0]
    if kind != "application/json":
        raise RequestError(
            f"content-type: got {kind[:MAX_SHOWN_PATH]!a}, want 'application/json'", status=415
        )


def _sent_on(scope: Scope, raw: bytes, receive: Receive) -> tuple[Scope, Receive]:
    """What the app inside is called with in place of the client's own."""
    return _with_length(scope, len(raw)), _replayed(raw, receive)


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body, or None when the client went away.

    Raises:
        RequestError: longer than `MAX_BODY_BYTES`.
    """
    told = Headers(scope=scope).get("content-length", "")
    pieces: list[bytes] = []
    more = not told.isdigit() or int(told) <= MAX_BODY_BYTES
    size = 0
    while more and size <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        more = message.get("more_body", False)
    if pieces and size <= MAX_BODY_BYTES:
        return b"".join(pieces)
    raise RequestError(
        f"body: got more than {MAX_BODY_BYTES // 2**20} MiB; send a shorter one", status=413
    )


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"body: not JSON: {_short(error)}") from error
    if not isinstance(body, dict):
        raise RequestError(f"body: got {type(body).__name__}, want an object")
    return body


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return encode(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"body: {_short(error)}; want finite numbers and valid Unicode"
        ) from error


def _short(error: Exception) -> str:
    return str(error)[:120]


def _replayed(raw: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that gives the rewritten body first, then whatever comes (the disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return replay


def _clean(scope: Scope) -> Scope:
    """Our own header names are ours: a client's are dropped."""
    headers = [each for each in scope["headers"] if not each[0].startswith(b"x-pilothouse-")]
    return {**scope, "headers": headers}


def _with_length(scope: Scope, length: int) -> Scope:
    dropped = (b"content-length", b"transfer-encoding")
    headers = [each for each in scope["headers"] if each[0] not in dropped]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


async def _deny(send: Send, method: str, path: str, verdict: RouteVerdict) -> None:
    shown = path[:MAX_SHOWN_PATH].encode("utf-8", "replace").decode()
    text = (
        f"{method} {shown} is not served: {verdict.reason}. If it runs no model, the operator can "
        "list it under gate.allow"
    )
    logger.warning("denied %s %s", log_text(method), log_text(path))
    await send_json(send, 403, error_body(text, status=403, code="route_denied"))


async def _wrong_method(send: Send, method: str, path: str, verdict: RouteVerdict) -> None:
    allowed = ", ".join(verdict.allowed_methods)
    text = f"{method} {path}: want {allowed}"
    body = error_body(text, status=405, code="method_not_allowed")
    await send_json(send, 405, body, {"allow": allowed})
