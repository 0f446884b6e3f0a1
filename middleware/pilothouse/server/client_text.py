"""Text of an answer that no model chose: what a client puts into the assistant's mouth.

A prompt rule reads where an assistant's turn opens. Text behind that place is not in what it read:
an answer that the client began, a prompt that is cut off or opens no turn at all, and whatever a
grammar, a forced tool, a token list or a bias made the model "say". All of it is the client's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pilothouse.server.request_schema import RequestFields

MAX_PREFIXES: Final = 48
MAX_WORDS: Final = 12
"""A stretch without the end of a sentence counts as ended after so many words."""

MAX_LETTERS: Final = 16
"""What is written without spaces counts as words of so many letters."""

_FULL_STOPS: Final = "\u3002\uff01\uff1f\uff1b"
"""Those of scripts that leave no space behind them."""
_WORD: Final = re.compile(
    rf"(?:[^\s{_FULL_STOPS}]{{1,{MAX_LETTERS}}}[{_FULL_STOPS}]*|[{_FULL_STOPS}]+)\s*"
)
_ENDS: Final = re.compile(rf"(?:[.?!;][\"'}}\]),]*|[{_FULL_STOPS}])\s*$|\n\s*$")


def prefixes(text: str) -> tuple[str, ...]:
    """The text up to each place where it could have ended, but for the whole of it.

    There are at most `MAX_PREFIXES`; of more, as many are taken at even distances.
    """
    ends: list[int] = []
    num_words = 0
    for word in _WORD.finditer(text):
        num_words += 1
        if _ENDS.search(word.group()) or num_words == MAX_WORDS:
            ends.append(word.end())
            num_words = 0
    inner = [end for end in ends if text[end:].strip()]
    if len(inner) > MAX_PREFIXES:
        inner = [inner[index * len(inner) // MAX_PREFIXES] for index in range(MAX_PREFIXES)]
    return tuple(text[:end].rstrip() for end in inner)


MAX_BANS = 16
"""Tokens and words that may be banned before what is left is the client's choice."""

_NO_TEXT = frozenset({"role", "type", "id", "image_url", "audio_url", "video_url", "input_audio"})
"""Keys of a message, or of a part of one, whose values a template does not render as words."""


def chooses_tokens(
    read: Mapping[str, Any], *, has_literal_shape: bool, has_strict_tool: bool
) -> bool:
    """Say whether the client, and not the model, may choose tokens of the answer.

    Args:
        read: the fields of vLLM's request by name; one that an endpoint does not have is absent.
        has_literal_shape: the shape asked for is a schema or a tag.
        has_strict_tool: vLLM makes a grammar of a tool that the model may call.
    """
    tool = read.get("tool_choice")
    biases = (read.get("logit_bias") or {}).values()
    return bool(
        read.get("structured_outputs") is not None
        or has_literal_shape
        or (tool is not None and tool not in ("none", "auto"))
        or (tool == "auto" and (has_strict_tool or read.get("parallel_tool_calls") is False))
        or read.get("allowed_token_ids")
        or any(bias > 0 for bias in biases)
        or len(biases) + len(read.get("bad_words") or ()) > MAX_BANS
    )


def is_constrained(fields: RequestFields, *, pins_tools: bool = False) -> bool:
    """Say whether the client may choose tokens of the answer on this server.

    Args:
        pins_tools: the server has vLLM make a grammar of all tools that a request names.
    """
    return fields.constrained or (pins_tools and fields.may_call)


def leans_on_tokens(fields: RequestFields) -> bool:
    """Say whether the client says anything at all of which tokens may be chosen."""
    read = fields.vllm.__dict__
    return bool(fields.constrained or read.get("logit_bias") or read.get("bad_words"))


def supplied_text(fields: RequestFields) -> tuple[str, ...]:
    """Return what of a conversation is to be scored as a user's turn before it may go on."""
    messages = fields.messages or ()
    texts = [message_text(each) for each in messages]
    if fields.roles and fields.roles[-1] == "assistant":
        return _alone_and_together(texts[-1], last_user_text(messages))
    if fields.truncated or not fields.add_generation_prompt:
        return _alone_and_together(last_user_text(messages), " ".join(texts[:-1]))
    return ()


def forced_texts(answer: str, before: str) -> tuple[str, ...]:
    """Return what is to be scored as a user's turn of an answer that the client constrained.

    Where words of the client's end and the model's begin is not known, so the answer is scored at
    each place where it could have ended.

    Args:
        before: what was said last by anyone but the assistant.
    """
    ended = (f"{before} {each}" for each in prefixes(answer))
    return (*_alone_and_together(answer, before), *ended)


def answer_texts(answer: str, before: str) -> tuple[str, ...]:
    """Return what is to be scored of an answer whose words the model chose."""
    return _alone_and_together(answer, before)


def _alone_and_together(text: str, before: str) -> tuple[str, ...]:
    """A sentence may be cut in two, one half on each side of the border."""
    together = f"{before} {text}"
    return tuple(each for each in dict.fromkeys((text, together)) if each.strip())


def last_user_text(messages: Sequence[Any] | None) -> str:
    """Return what was said last by anyone but the assistant; nothing where there are no turns."""
    for message in reversed(messages or ()):
        if message.get("role") != "assistant":
            return message_text(message)
    return ""


def message_text(message: Any) -> str:
    """Every text of a message that a template may render: of parts, reasoning, calls, refusals."""
    return " ".join(_texts(message))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _NO_TEXT:
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
