"""Answers to what the gate does not let through: 403, or what vLLM says where it has no route.

The app is never asked, only its route table: what it would route is denied, so that no spelling of
a path reaches a handler that the gate did not mean.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

from starlette._utils import get_route_path
from starlette.routing import Match
from starlette.types import Scope, Send

from pilothouse.log_text import log_text
from pilothouse.server.answers import error_body, send_json
from pilothouse.server.routes import DENIED, RouteTable, RouteVerdict

logger = logging.getLogger(__name__)

MAX_SHOWN_PATH = 200
_QUERY = "%/?:@!$&'()*+,;=~[]"
NO_ROUTE = {"detail": "Not Found"}
"""FastAPI's own words, which vLLM gives."""


async def answer_denied(send: Send, scope: Scope, verdict: RouteVerdict) -> None:
    """403 for what runs or might run something, 404 for what is nothing."""
    method, path = scope["method"], get_route_path(scope)
    shown = path[:MAX_SHOWN_PATH].encode("utf-8", "replace").decode()
    if path not in DENIED and not routed(scope):
        logger.info("no route %s %s", log_text(method), log_text(path))
        await send_json(send, 404, NO_ROUTE)
        return
    text = (
        f"{method} {shown} is not served: {verdict.reason}. If it runs no model, the operator can "
        "list it under gate.allow"
    )
    logger.warning("denied %s %s", log_text(method), log_text(path))
    await send_json(send, 403, error_body(text, status=403, code="route_denied"))


async def answer_wrong_method(send: Send, scope: Scope, verdict: RouteVerdict) -> None:
    """405 with the methods that there are."""
    allowed = ", ".join(verdict.allowed_methods)
    text = f"{scope['method']} {get_route_path(scope)}: want {allowed}"
    body = error_body(text, status=405, code="method_not_allowed")
    await send_json(send, 405, body, {"allow": allowed})


async def answer_moved(send: Send, location: str) -> None:
    """307 to the same path with or without a slash at its end."""
    headers = [(b"content-length", b"0"), (b"location", location.encode())]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def moved_to(scope: Scope, table: RouteTable) -> str | None:
    """Where vLLM would send a path that differs from a served one by slashes at its end.

    A path alone, without the host that vLLM takes from the client's header: behind a proxy that
    ends TLS that would lead to a plain connection.
    """
    full: str = scope["path"]
    path = get_route_path(scope)
    if path in DENIED or path in ("", "/") or routed(scope):
        return None
    other = {**scope, "path": full.rstrip("/") if full.endswith("/") else f"{full}/"}
    if table.judge(scope["method"], get_route_path(other)).kind == "denied" or not routed(other):
        return None
    query = quote(scope["query_string"], safe=_QUERY)
    # One slash at the front: two would begin a host's name.
    return "/" + quote(other["path"].lstrip("/")) + (f"?{query}" if query else "")


def routed(scope: Scope) -> bool:
    """The app has a route for this path, whatever the method; a mounted app counts for all below.

    A route that cannot tell counts as one that would take it.
    """
    return any(_takes(route, scope) for route in scope["app"].router.routes)


def _takes(route: Any, scope: Scope) -> bool:
    try:
        match, _ = route.matches(dict(scope))
    except Exception:
        return True
    return bool(match is not Match.NONE)
