"""What lets a page of another origin read the gate's own answers, as it may read vLLM's."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Scope, Send


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
