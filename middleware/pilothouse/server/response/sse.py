"""Server-sent events as vLLM writes them: bytes in any chunks to whole events, and back."""

from __future__ import annotations

from collections.abc import Iterator

from pilothouse.server.openai_errors import encode

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
