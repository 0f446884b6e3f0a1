"""The gate: outermost ASGI middleware. What it does not let through does not exist."""

from __future__ import annotations

import logging

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pilothouse.errors import RequestError
from pilothouse.log_text import log_text
from pilothouse.server.admin import admin_refusal
from pilothouse.server.answer import error_body, plainly, request_error_body, send_json
from pilothouse.server.body import encoded, parsed_aside, read_body, sent_on
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
                encoded(await parsed_aside(raw, limits))  # what it quotes can be sent
        except RequestError as error:
            await send_json(send, error.status, request_error_body(error))
            return
        await self._app(*sent_on(scope, raw, receive), send)

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
                await self._app(scope, receive, send)  # vLLM's own 401, without a look at the body
                return
            _refuse_other_content(scope)
            limits = state.editions.newest.admission.limits
            raw = await read_body(scope, receive, limits)
            if raw is None:
                outcome = "abort"
                return
            body = await parsed_aside(raw, limits)
            with state.editions.admitting() as edition:
                caller = edition.doorkeeper.caller(scope)
                try:
                    admitted = edition.admission.admit(body, family.endpoint, caller)
                except Unreadable:
                    # Without a seal: should vLLM take it after all, the scheduler does not.
                    await self._app(*sent_on(scope, encoded(body), receive), send)
                    return
                raw = encoded(body)
                model = admitted.model_label
                entry = state.ledger.open(admitted.decision_id)
                outcome = "error"
                try:
                    forced = None
                    if admitted.exposure.holds_start and state.renders_chats:
                        scorer = Rescorer(
                            self._app, scope, edition.admission, state.ledger, admitted
                        )
                        found = await rescored(scorer, body, family, entry)
                        admitted, forced = found.admitted, found.forced
                        raw = encoded(shortest(body)) if found.blocked else raw
                    exchange = Exchange(family, admitted, entry, state.settler, send, forced)
                    await self._app(*sent_on(plainly(scope), raw, receive), exchange.send)
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
    kind = _content_type(scope)
    if kind != JSON:
        raise RequestError(
            f"content-type: got {kind[:MAX_SHOWN_PATH]!a}, want {JSON!r}", status=415
        )


def _content_type(scope: Scope) -> str:
    """Without its parameters."""
    return Headers(scope=scope).get("content-type", "").lower().split(";", maxsplit=1)[0]


def _may_be_json(scope: Scope) -> bool:
    """FastAPI takes a body of no stated kind, and any kind of JSON, for JSON."""
    kind = _content_type(scope).strip()
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
    logger.warning("denied %s %s", log_text(method), log_text(path))
    await send_json(send, 403, error_body(text, status=403, code="route_denied"))


async def _wrong_method(send: Send, method: str, path: str, verdict: RouteVerdict) -> None:
    allowed = ", ".join(verdict.allowed_methods)
    text = f"{method} {path}: want {allowed}"
    body = error_body(text, status=405, code="method_not_allowed")
    await send_json(send, 405, body, {"allow": allowed})
