"""A client that goes away is an abort, whatever the app still says; one that waited is not."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message

from pilothouse.server.middleware import Disconnect

START = {"type": "http.response.start", "status": 200, "headers": []}
GONE = {"type": "http.disconnect"}


class Wire:
    """The server's side: a script of what is received, and what was sent."""

    def __init__(self, *incoming: Message) -> None:
        self.incoming = list(incoming)
        self.sent: list[Message] = []
        self.client = Disconnect(self._receive, self._send)

    async def _receive(self) -> Message:
        return self.incoming.pop(0) if self.incoming else GONE

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


def body(raw: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": raw, "more_body": more}


async def test_a_disconnect_after_the_whole_answer_is_none() -> None:
    wire = Wire({"type": "http.request", "body": b"{}"})
    await wire.client.receive()
    for message in (START, body(b"a", more=True), body(b"b")):
        await wire.client.send(message)
    assert await wire.client.receive() == GONE
    assert wire.client.outcome_or("block") == "block"
    assert wire.sent == [START, body(b"a", more=True), body(b"b")] and wire.client.status == 200


async def test_a_disconnect_while_the_last_piece_leaves_is_none() -> None:
    wire = Wire()

    async def send(_: Message) -> None:
        await wire.client.receive()  # as a listener that the server wakes meanwhile

    wire.client = client = Disconnect(wire._receive, send)
    await client.send(body(b"all"))
    assert client.outcome_or("allow") == "allow"


@pytest.mark.parametrize("already", [[], [START], [START, body(b"a", more=True)]])
@pytest.mark.parametrize("late", [[START, body(b"null")], [START | {"status": 500}, body(b"no")]])
async def test_what_is_said_to_a_client_that_has_gone_is_dropped(
    already: list[Message], late: list[Message]
) -> None:
    wire = Wire()
    for message in already:
        await wire.client.send(message)
    assert await wire.client.receive() == GONE
    for message in late:
        await wire.client.send(message)
    assert wire.sent == already
    for outcome in ("error", "block", "reject"):
        assert wire.client.outcome_or(outcome) == "abort"
