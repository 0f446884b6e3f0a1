"""Every text that an answer shows: content, calls, thoughts, tokens by number, logprobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.attacks.registry import tokenizer

Choice = dict[str, Any]


def read(answer: httpx.Response) -> tuple[list[str], set[str]]:
    """What a client can read in a 200, and the finish reasons; `error` for an error frame."""
    choices: dict[int, list[Choice]] = {}
    reasons: set[str] = set()
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    chunks = list(_chunks(answer.text)) if streamed else [answer.json()]
    for chunk in chunks:
        if "error" in chunk:
            reasons.add("error")
        for choice in chunk.get("choices") or ():
            choices.setdefault(choice["index"], []).append(choice)
            reasons.add(choice.get("finish_reason"))
        details = (chunk.get("response") or chunk).get("incomplete_details") or {}
        reasons.add(details.get("reason"))
        if chunk.get("type") in ("error", "response.failed"):
            reasons.add("error")
    texts = [text for pieces in choices.values() for text in _texts(pieces)]
    texts += of_responses(chunks)
    texts += [text for chunk in chunks for text in _of_prompt(chunk.get("prompt_logprobs"))]
    return texts, reasons - {None}


def of_responses(chunks: list[dict[str, Any]]) -> Iterator[str]:
    """Of a response, or of the events of one: pieces put together, items, raw messages."""
    pieces: dict[str, str] = {}
    for chunk in chunks:
        if "delta" in chunk:
            name = chunk["item_id"]
            pieces[name] = pieces.get(name, "") + chunk["delta"]
        shown = (chunk.get(key) for key in ("text", "arguments", "input"))
        yield from (each for each in shown if isinstance(each, str))
        told = chunk.get("response") or chunk
        for item in (*(told.get("output") or ()), chunk.get("item") or {}):
            yield from (item.get(key) or "" for key in ("name", "arguments", "input"))
            for part in item.get("content") or ():
                yield part.get("text") or part.get("refusal") or ""
                yield from _shown(part.get("logprobs"))
        for message in told.get("output_messages") or ():
            yield message["message"]
            yield tokenizer().decode(message["tokens"])
        yield from _shown(chunk.get("logprobs"))
    yield from pieces.values()


def _shown(places: Any) -> Iterator[str]:
    """What logprobs of a response show; a piece of a stream shows those of its own tokens."""
    before = ""
    for token, others in _places({"logprobs": {"content": places}}):
        yield from (f"{before}{other}" for other in others)
        before += token
    yield before


def _chunks(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def _texts(pieces: list[Choice]) -> Iterator[str]:
    """Of one choice, whole or in pieces of a stream."""
    told = [each.get("message") or each.get("delta") or {} for each in pieces]
    content = "".join(
        (piece.get("text") or "") + (message.get("content") or "")
        for piece, message in zip(pieces, told, strict=True)
    )
    yield content
    yield "".join(each.get("reasoning") or "" for each in told)
    calls = [call["function"] for each in told for call in each.get("tool_calls") or ()]
    yield "".join(call.get("arguments") or "" for call in calls)
    yield " ".join(call.get("name") or "" for call in calls)
    yield tokenizer().decode([each for piece in pieces for each in piece.get("token_ids") or ()])
    before = ""
    for token, others in (place for piece in pieces for place in _places(piece)):
        yield from (f"{before}{other}" for other in others)
        before += token
    yield before
    for piece in pieces:
        yield from _of_prompt(piece.get("prompt_logprobs"))


def _places(piece: Choice) -> Iterator[tuple[str, list[str]]]:
    """A token and what was likeliest, for each place that the piece shows logprobs of."""
    shown = piece.get("logprobs") or {}
    for place in shown.get("content") or ():
        likely = {
            each["token"]: each.get("logprob", 0.0) for each in place.get("top_logprobs") or ()
        }
        yield _word(place["token"]), _likeliest(likely)
    tokens = shown.get("tokens") or ()
    places = shown.get("top_logprobs") or [None] * len(tokens)
    for token, others in zip(tokens, places, strict=True):
        yield _word(token), _likeliest(others)


def _likeliest(others: dict[str, float] | None) -> list[str]:
    """What the model would have said there; what it would not is no answer of its."""
    return [_word(max(others, key=others.__getitem__))] if others else []


def _word(token: str) -> str:
    """A token's text, also where it is shown by its number."""
    name, _, number = token.partition(":")
    return tokenizer().decode([int(number)]) if name == "token_id" else token


def _of_prompt(places: list[dict[str, Any] | None] | None) -> Iterator[str]:
    """What would have been said at each place of a prompt."""
    before = ""
    for place in places or ():
        others = sorted((place or {}).values(), key=lambda each: each["rank"])
        yield from (f"{before}{each['decoded_token']}" for each in others if each["rank"] == 1)
        before += min(others, key=lambda each: each["logprob"])["decoded_token"] if others else ""
