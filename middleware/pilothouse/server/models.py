"""/v1/models with the profiles in it: each is a name that a request can give as its model."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse.server.answers import encode, error_body, is_encoded, plainly, send_json
from pilothouse.server.state import ServerState


async def with_profiles(
    app: ASGIApp, state: ServerState, scope: Scope, receive: Receive, send: Send
) -> None:
    """Let vLLM answer, and add the profiles to a good answer."""
    start: Message = {}
    body = b""

    async def collect(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await finish()

    async def finish() -> None:
        raw = body
        if is_encoded(start["headers"]):
            text = "the list was encoded before profiles could be added: a --middleware compresses"
            await send_json(send, 503, error_body(text, status=503, code="pilothouse_encoded"))
            return
        headers = [each for each in start["headers"] if each[0].lower() != b"content-length"]
        if start["status"] == 200:
            listing = json.loads(body)
            listing["data"] += _profile_cards(state, listing["data"])
            raw = encode(listing)
        headers.append((b"content-length", str(len(raw)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": raw})

    await app(plainly(scope), receive, collect)


def _profile_cards(state: ServerState, served: list[dict[str, Any]]) -> list[dict[str, Any]]:
    base = next((each for each in served if each["id"] == state.served_names[0]), None)
    if base is None:
        return []
    return [
        {**base, "id": name, "parent": base["id"], "owned_by": "pilothouse"}
        for name in sorted(state.plan.body.profiles)
    ]
