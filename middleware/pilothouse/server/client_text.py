"""Text of an answer that no model chose: what a client puts into the assistant's mouth.

A prompt rule reads where an assistant's turn opens. Text behind that place is not in what it read:
an answer that the client began, a prompt that is cut off or opens no turn at all, and whatever a
grammar, a forced tool, a token list or a bias made the model "say". All of it is the client's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pilothouse.server.request_schema import Body, RequestFields

_LITERAL_FORMATS = ("json_schema", "structural_tag")
"""Of `response_format`; plain `json_object` leaves every word to the model."""

_NO_TEXT = frozenset({"role", "type", "id", "image_url", "audio_url", "video_url", "input_audio"})
"""Keys of a message, or of a part of one, whose values a template does not render as words."""


def is_constrained(fields: RequestFields) -> bool:
    """Whether the client, and not the model, may choose tokens of the answer.

    Taking tokens away chooses among what is left: enough bans of single tokens and of tokens
    behind others spell any text.
    """
    read = fields.vllm.__dict__
    shape = read.get("response_format")
    tool = read.get("tool_choice")
    return bool(
        read.get("structured_outputs") is not None
        or (shape is not None and shape.type in _LITERAL_FORMATS)
        or (tool is not None and tool not in ("none", "auto"))
        or read.get("allowed_token_ids")
        or any((read.get("logit_bias") or {}).values())
        or read.get("bad_words")
    )


def supplied_in_chat(fields: RequestFields, body: Body) -> tuple[str, ...]:
    """What of a chat is to be scored as a user's turn before it may go on.

    Messages are taken from the body, which vLLM reads again: its own request object holds parts of
    a message as what can be read only once.
    """
    texts = [message_text(each) for each in body["messages"]]
    if fields.roles and fields.roles[-1] == "assistant":
        return _alone_and_together(texts[-1], last_user_text(body))
    cut = fields.vllm.truncate_prompt_tokens is not None
    if cut or not fields.add_generation_prompt:
        return _alone_and_together(last_user_text(body), " ".join(texts[:-1]))
    return ()


def forced_texts(answer: str, body: Body) -> tuple[str, ...]:
    """What is to be scored as a user's turn of an answer that the client constrained."""
    return _alone_and_together(answer, last_user_text(body))


def _alone_and_together(text: str, before: str) -> tuple[str, ...]:
    """A sentence may be cut in two, one half on each side of the border."""
    together = f"{before} {text}"
    return tuple(each for each in dict.fromkeys((text, together)) if each.strip())


def last_user_text(body: Body) -> str:
    """What was said last in a chat by anyone but the assistant; nothing in a completion."""
    for message in reversed(body.get("messages") or []):
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


def choice_text(choice: Mapping[str, Any]) -> str:
    """All that a choice, or a part of one in a stream, says."""
    said = choice.get("message") or choice.get("delta") or {}
    texts = [choice.get("text"), said.get("reasoning"), said.get("content")]
    for call in said.get("tool_calls") or ():
        function = call.get("function") or {}
        texts += [function.get("name"), function.get("arguments")]
    return "".join(each for each in texts if isinstance(each, str))
