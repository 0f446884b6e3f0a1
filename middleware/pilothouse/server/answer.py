"""Answers the gate makes itself, in the shape that OpenAI's clients know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Send

from pilothouse.errors import RequestError, sendable

DOCS_HINT = "see docs/http.md"
_TYPES = {401: "authentication_error", 403: "permission_error", 503: "service_unavailable_error"}


def encode(value: object) -> bytes:
    """Compact JSON.

    Raises:
        ValueError: a NaN, an infinity, or text that is not Unicode (a lone surrogate).
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def error_body(
    message: str, *, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error answer; words of a client in it are made text that can be sent."""
    kind = _TYPES.get(status, "invalid_request_error")
    told = None if param is None else sendable(param)
    return {"error": {"message": sendable(message), "type": kind, "param": told, "code": code}}


def request_error_body(error: RequestError) -> dict[str, Any]:
    """The body for a request that admission refuses."""
    code = "pilothouse_forbidden" if error.status == 403 else "pilothouse_invalid_request"
    return error_body(str(error), status=error.status, param=error.param, code=code)


async def send_json(
    send: Send, status: int, body: object, headers: Mapping[str, str] | None = None
) -> None:
    """One whole JSON answer."""
    raw = encode(body)
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    lines += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": raw})
