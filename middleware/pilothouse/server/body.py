"""A request's body: read up to its bound, counted before it is parsed, then checked."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from pilothouse.errors import RequestError
from pilothouse.limits import ServedLimits, exceeded, refuse_count
from pilothouse.server.answers import encode
from pilothouse.server.guided_output import GUIDES, refuse_large_guides

Body = dict[str, Any]

STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
"""One that nobody closes goes to the end: else each of its escaped quotes would be tried anew."""
LONG_BODY: Final = 1 << 16
JSON: Final = "application/json"
MAX_SHOWN_KIND: Final = 200
"""Characters of a client's content type in an error."""
OWN_BOUND: Final = {
    "messages": "max_messages",
    "tools": "max_tools",
    "stop": "max_stop_strings",
    "bad_words": "max_bad_words",
    "logit_bias": "max_logit_bias",
    "vllm_xargs": "max_vllm_xargs",
    "chat_template_kwargs": "max_template_kwargs",
}
"""Fields of a body whose entries are dearer, or cheaper, than those of any list or object."""


def content_type(scope: Scope) -> str:
    """Return the content type without its parameters, in lower case."""
    return Headers(scope=scope).get("content-type", "").lower().split(";", maxsplit=1)[0]


def refuse_other_content(scope: Scope) -> None:
    """Of content types vLLM reads this one alone, and compares it to the letter.

    Raises:
        RequestError: another one, or none.
    """
    kind = content_type(scope)
    if kind != JSON:
        raise RequestError(
            f"content-type: got {kind[:MAX_SHOWN_KIND]!a}, want {JSON!r}", status=415
        )


async def read_body(scope: Scope, receive: Receive, limits: ServedLimits) -> bytes | None:
    """The whole body, or None when the client went away.

    Raises:
        RequestError: longer than `limits.max_body_kib` (413), however it was announced.
    """
    most = limits.max_body_bytes
    told = Headers(scope=scope).get("content-length", "")
    read = bytearray()
    more = not told.isdigit() or int(told) <= most
    refused = not more
    while more and not refused:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        read += message.get("body", b"")
        refused = len(read) > most
        more = message.get("more_body", False)
    if not refused:
        return bytes(read)
    raise RequestError(
        f"body: got more than {limits.max_body_kib} KiB, want at most that (limits.max_body_kib): "
        "send a shorter one, or ask the operator to raise the limit",
        status=413,
    )


def parsed(raw: bytes, limits: ServedLimits) -> Body:
    """The JSON object in a body, within every bound.

    Raises:
        RequestError: not JSON, no object, or above a bound; says which.
    """
    try:
        text = raw.decode("utf-8-sig")
        _refuse_crowded(text, limits)
        body = json.loads(text)
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise RequestError(f"body: not JSON: {str(error)[:120]}") from error
    if not isinstance(body, dict):
        raise RequestError(f"body: got {type(body).__name__}, want an object")
    refuse_oversize(body, limits)
    return body


async def parsed_aside(raw: bytes, limits: ServedLimits) -> Body:
    """As `parsed`, in a thread of its own where that can take more than some milliseconds."""
    if len(raw) <= LONG_BODY:
        return parsed(raw, limits)
    return await asyncio.to_thread(parsed, raw, limits)


def encoded(body: Body) -> bytes:
    """The body as it goes on.

    Raises:
        RequestError: a number that is not finite, or text that is not Unicode.
    """
    try:
        return encode(body)
    except (ValueError, RecursionError) as error:
        told = ascii(str(error))[1:-1][:120]
        raise RequestError(f"body: {told}; want finite numbers and valid Unicode") from error


def refuse_oversize(body: Body, limits: ServedLimits) -> None:
    """Count what a body asks for.

    Raises:
        RequestError: more than a bound allows; the message begins with the field.
    """
    num_values = num_tokens = 0
    _refuse_long(body, "body", "max_entries", limits)
    for name, field in body.items():
        if isinstance(field, list | dict) and name in OWN_BOUND:
            _refuse_long(field, name, OWN_BOUND[name], limits)
        row = [field]
        depth = 1
        while row:
            num_values += len(row)
            if num_values > limits.max_json_values:
                raise _over(name, f"{num_values} values", "max_json_values", limits)
            containers = [each for each in row if isinstance(each, list | dict) and each]
            depth += bool(containers)
            if depth > limits.max_json_depth:
                raise _over(name, f"a depth of {depth}", "max_json_depth", limits)
            row = []
            for each in containers:
                if is_numbers(each):
                    num_tokens += len(each)
                    continue
                if each is not field or name not in OWN_BOUND:
                    _refuse_long(each, name, "max_entries", limits)
                row += each.values() if isinstance(each, dict) else each
        if num_tokens > limits.max_token_ids:
            raise _over(name, f"{num_tokens} numbers", "max_token_ids", limits)
    _refuse_parts(body.get("messages"), limits)
    _refuse_texts(body, limits)
    refuse_large_guides(body, limits)


def sent_on(scope: Scope, raw: bytes, receive: Receive) -> tuple[Scope, Receive]:
    """What the app inside is called with in place of the client's own."""
    return _with_length(scope, len(raw)), _replayed(raw, receive)


def is_numbers(value: object) -> bool:
    """A list of numbers alone, such as a prompt's token ids."""
    return isinstance(value, list) and set(map(type, value)) <= {int, float}


def _refuse_crowded(text: str, limits: ServedLimits) -> None:
    """Bound what the parser will make, which holds the interpreter until it is through."""
    most = limits.max_json_values
    separators = most + limits.max_token_ids
    if text.count("[") + text.count("{") <= most and text.count(",") <= separators:
        return
    bare = STRING.sub("", text)
    containers = bare.count("[") + bare.count("{")
    if containers > most:
        raise _over("body", f"{containers} lists and objects", "max_json_values", limits)
    if bare.count(",") > separators:
        raise _over("body", f"{bare.count(',')} entries", "max_token_ids", limits)


def _refuse_texts(body: Body, limits: ServedLimits) -> None:
    """Prompts in a list are cut into tokens one by one; other texts may become one, guides not."""
    prompts = body.get("prompt")
    listed = prompts if isinstance(prompts, list) else []
    sizes = {"prompt": max((len(each) for each in listed if isinstance(each, str)), default=0)}
    rest = {
        name: value for name, value in body.items() if value is not listed and name not in GUIDES
    }
    sizes["body"] = sum(map(len, _texts(rest)))
    for place, size in sizes.items():
        if size > limits.max_text_kib * 1024:
            got = f"{-(-size // 1024)} KiB of text"
            raise _over(place, got, "max_text_kib", limits)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a body, names of fields too."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            yield from each
            waiting += each.values()
        elif isinstance(each, list) and not is_numbers(each):
            waiting += each


def _refuse_long(value: list[Any] | Body, place: str, limit: str, limits: ServedLimits) -> None:
    if len(value) > getattr(limits, limit):
        raise _over(place, f"{len(value)} entries", limit, limits)


def _over(name: str, got: str, limit: str, limits: ServedLimits) -> RequestError:
    shown = ascii(name)[1:-1][:60] or "body"
    return exceeded(shown, got, limit, limits, param=None if name == "body" else shown)


def _refuse_parts(messages: object, limits: ServedLimits) -> None:
    found: Iterable[Any] = messages if isinstance(messages, list) else ()
    parts = sum(
        len(each["content"])
        for each in found
        if isinstance(each, dict) and isinstance(each.get("content"), list)
    )
    refuse_count("messages.content", parts, "max_content_parts", limits, "messages")


def _replayed(raw: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that gives the body first, then whatever comes (the disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return replay


def _with_length(scope: Scope, length: int) -> Scope:
    dropped = (b"content-length", b"transfer-encoding")
    headers = [each for each in scope["headers"] if each[0] not in dropped]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}
