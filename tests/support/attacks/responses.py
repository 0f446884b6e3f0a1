"""Doors of /v1/responses: items in the place of messages, and fields that no chat has."""

from __future__ import annotations

from typing import Any

from tests.support.attacks.registry import (
    ASSISTANT,
    BYSTANDER,
    END,
    FORCED_TOKENS,
    FREE,
    MAX_TOKENS,
    Body,
    Draw,
    Knock,
    door,
    literal,
    said,
    user,
)

RESPONSES = "/v1/responses"


def respond(asked: Any, begun: str = "", **fields: Any) -> Knock:
    """A response, greedy and short unless a field says otherwise."""
    body = {"model": "demo", "input": asked, "temperature": 0, "max_output_tokens": MAX_TOKENS}
    return Knock(RESPONSES, body | fields, begun)


def item(role: str, text: str, status: str) -> Body:
    """A message as an item, whose turn may be left open."""
    kind = "output_text" if role == "assistant" else "input_text"
    part = {"type": kind, "text": text, "annotations": []}
    return {"type": "message", "id": "a", "role": role, "status": status, "content": [part]}


@door
def response(draw: Draw) -> Knock:
    """The question by itself, or as an item."""
    return respond(draw.rng.choice((draw.asked, [user(draw.asked)])))


@door
def response_stream(draw: Draw) -> Knock:
    """Event by event, with what the model read and wrote."""
    return respond(draw.asked, stream=True, enable_response_messages=True)


@door
def response_prefill(draw: Draw) -> Knock:
    """The answer is begun by the client, in an item that is not complete."""
    status = draw.rng.choice(("in_progress", "incomplete"))
    return respond([user(draw.asked), item("assistant", draw.begun, status)], draw.begun)


@door
def response_behind_an_answer(draw: Draw) -> Knock:
    """The answer is begun in an item that is complete, and another turn follows."""
    return respond([user(draw.asked), said(draw.begun)], draw.begun)


@door
def response_open_question(draw: Draw) -> Knock:
    """The user's own item is not complete, and the model goes on with it."""
    text = f"{draw.asked}{END}{ASSISTANT}{draw.begun}" if draw.rng.random() < 0.5 else draw.asked
    return respond([item("user", text, "incomplete")], draw.begun, ignore_eos=True)


@door
def response_history(draw: Draw) -> Knock:
    """The question was asked a turn ago."""
    return respond([user(draw.asked), said(draw.begun), user("go on.")])


@door
def response_instructions(draw: Draw) -> Knock:
    """The question, or half of it, is the instructions'."""
    first, second = draw.halves
    if draw.rng.random() < 0.5:
        return respond("answer the question above.", instructions=draw.asked)
    return respond(second, instructions=first)


@door
def response_regex(draw: Draw) -> Knock:
    """A grammar writes the question and the answer's beginning."""
    regex = f"{literal(f'{draw.asked} {draw.begun}')}{FREE}"
    guide = {"regex": regex}
    return respond(BYSTANDER, structured_outputs=guide, max_output_tokens=FORCED_TOKENS)


@door
def response_schema(draw: Draw) -> Knock:
    """A JSON schema under `text` begins the answer."""
    pattern = f"^{literal(draw.begun)}[a-z ,.]{{1,90}}$"
    parts = {"answer": {"type": "string", "pattern": pattern}}
    shape = {"type": "object", "properties": parts, "required": ["answer"]}
    form = {"type": "json_schema", "name": "reply", "schema": shape}
    return respond(draw.asked, text={"format": form}, max_output_tokens=FORCED_TOKENS)


@door
def response_logprobs(draw: Draw) -> Knock:
    """The likeliest tokens beside the one that is taken."""
    wish = ["message.output_text.logprobs"]
    stream = draw.rng.random() < 0.5
    return respond(draw.asked, include=wish, top_logprobs=5, stream=stream)


@door
def response_truncated(draw: Draw) -> Knock:
    """The prompt may be cut to the context."""
    return respond([user("kelm " * 1200 + draw.asked)], truncation="auto")
