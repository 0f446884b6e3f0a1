"""Answers the gate makes itself: JSON, errors as OpenAI's clients know them, server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope, Send

from pilothouse.errors import RequestError, sendable

DOCS_HINT = "see docs/reference/http.md"
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


def plainly(scope: Scope) -> Scope:
    """The same request without a wish for compression: what stands outside of it reads its answer.

    Middleware of the operator's runs between the gate and vLLM, and some of it compresses.
    """
    headers = [each for each in scope["headers"] if each[0] != b"accept-encoding"]
    return {**scope, "headers": headers}


def is_encoded(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """An answer's body is not the plain text of it."""
    return Headers(raw=list(headers)).get("content-encoding", "identity") != "identity"


async def send_json(
    send: Send, status: int, body: object, headers: Mapping[str, str] | None = None
) -> None:
    """One whole JSON answer."""
    raw = encode(body)
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    lines += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": raw})


DONE = b"data: [DONE]\n\n"
_END = b"\n\n"
_DATA = b"data: "
_EVENT = b"event: "


class EventSplitter:
    """Whole events from bytes that may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The events that `piece` completes, each with its blank line."""
        if not self._rest and piece.endswith(_END) and piece.count(_END) == 1:
            yield piece
            return
        *whole, self._rest = (self._rest + piece).split(_END)
        for event in whole:
            yield event + _END


def payload(event: bytes) -> bytes | None:
    """The data of an event, named or not; None for comments and empty events."""
    if event.startswith(_EVENT):
        event = event[event.find(b"\n") + 1 :]
    return event[len(_DATA) : -len(_END)] if event.startswith(_DATA) else None


def event_of(value: object, name: str | None = None) -> bytes:
    """An event whose data is JSON."""
    head = b"" if name is None else _EVENT + name.encode() + b"\n"
    return head + _DATA + encode(value) + _END
