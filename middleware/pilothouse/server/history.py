"""Earlier turns of a chat, as clients send them back."""

from __future__ import annotations

from typing import Any


def say_refusals(body: dict[str, Any]) -> None:
    """Have a refusal that comes back in the history rendered as the assistant's text. In place.

    A refused answer has no content and its text under `refusal`, and clients keep it so. vLLM
    renders such a turn as an empty one: the question would stand there without an answer, and the
    next one in its light.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        return
    for message in messages:
        if not isinstance(message, dict) or message.get("role") != "assistant":
            continue
        text = message.get("refusal")
        if isinstance(text, str) and text and not message.get("content"):
            message["content"] = text
