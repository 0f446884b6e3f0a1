"""Doors of other endpoints that would run the model: none of them is open."""

from __future__ import annotations

from typing import Any, Final

from tests.support.attacks.registry import Draw, Knock, said, shut, token_ids, turn, user

NOT_GOVERNED: Final = "the route is denied: its answers are not governed"


def _knock(path: str, **body: Any) -> Knock:
    return Knock(path, {"model": "demo", "temperature": 0} | body)


@shut("what the server would keep, or fetch, between requests is refused")
def kept_responses(draw: Draw) -> Knock:
    """A response that somebody else would read, that goes on from one, or that fetches text."""
    field = draw.rng.choice(
        (
            {"background": True},
            {"store": True},
            {"previous_response_id": "resp_1"},
            {"tools": [{"type": "web_search"}]},
            {"messages": [user(draw.asked)]},
        )
    )
    return _knock("/v1/responses", input=draw.asked, max_output_tokens=48, **field)


@shut(NOT_GOVERNED)
def messages(draw: Draw) -> Knock:
    """The other maker's endpoint, whose last message may be the assistant's."""
    turns = [user(draw.asked), said(draw.begun)]
    return _knock("/v1/messages", messages=turns, max_tokens=48)


@shut(NOT_GOVERNED)
def other_routes(draw: Draw) -> Knock:
    """Whatever else would run the model, in the forms that it takes."""
    tokens = token_ids(turn(draw.asked, draw.begun))
    return draw.rng.choice(
        (
            _knock("/invocations", messages=[user(draw.asked)], max_tokens=48),
            _knock("/v1/chat/completions/batch", messages=[[user(draw.asked)]], max_tokens=48),
            _knock("/inference/v1/generate", token_ids=tokens, sampling_params={"max_tokens": 48}),
            _knock("/cohere/v2/chat", messages=[user(draw.asked)], max_tokens=48),
            _knock("/generative_scoring", prompt=draw.asked),
            _knock("/v1/chat/completions/render", messages=[user(draw.asked)]),
        )
    )
