"""Text of an answer that no model chose: what a client puts into the assistant's mouth.

A prompt rule reads where an assistant's turn opens. Text behind that place is not in what it read:
an answer that the client began, a prompt that is cut off or opens no turn at all, and whatever a
grammar, a forced tool, a token list or a bias made the model "say". All of it is the client's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pilothouse.policy.endpoint import Endpoint
from pilothouse.server.request_schema import RequestFields

_LITERAL_FORMATS = ("json_schema", "structural_tag")
"""Of `response_format`; plain `json_object` leaves every word to the model."""


def is_constrained(fields: RequestFields) -> bool:
    """Whether the client, and not the model, may choose tokens of the answer."""
    read = fields.vllm.__dict__
    shape = read.get("response_format")
    tool = read.get("tool_choice")
    return bool(
        read.get("structured_outputs") is not None
        or (shape is not None and shape.type in _LITERAL_FORMATS)
        or (tool is not None and tool not in ("none", "auto"))
        or read.get("allowed_token_ids")
        or any(bias > 0 for bias in (read.get("logit_bias") or {}).values())
    )


def supplied_texts(
    fields: RequestFields, endpoint: Endpoint, prompts: list[str], opening: str | None
) -> dict[int, tuple[str, ...]]:
    """What is to be scored as a user's turn before a request may go on, by prompt.

    Args:
        prompts: the texts of a completion's prompts.
        opening: the text that opens an assistant's turn; None where the template has none that
            could be found.
    """
    if endpoint == "chat":
        texts = _supplied_in_chat(fields)
        return {0: texts} if texts else {}
    cut = fields.vllm.truncate_prompt_tokens is not None
    found = {i: _supplied_in_prompt(text, opening, cut) for i, text in enumerate(prompts)}
    return {i: texts for i, texts in found.items() if texts}


def _supplied_in_chat(fields: RequestFields) -> tuple[str, ...]:
    messages = [each for each in fields.vllm.messages if isinstance(each, Mapping)]
    texts = [message_text(each) for each in messages]
    if fields.roles and fields.roles[-1] == "assistant":
        return _alone_and_together(texts[-1], last_user_text(fields))
    cut = fields.vllm.truncate_prompt_tokens is not None
    if cut or not fields.add_generation_prompt:
        return _alone_and_together(last_user_text(fields), " ".join(texts[:-1]))
    return ()


def _supplied_in_prompt(prompt: str, opening: str | None, cut: bool) -> tuple[str, ...]:
    if opening is None or opening not in prompt:
        return (prompt,) if prompt.strip() else ()
    head, _, tail = prompt.rpartition(opening)
    if not tail.strip():
        return (prompt,) if cut else ()
    return tuple(dict.fromkeys((tail, f"{head} {tail}", prompt)))


def forced_texts(answer: str, fields: RequestFields) -> tuple[str, ...]:
    """What is to be scored as a user's turn of an answer that the client constrained."""
    return _alone_and_together(answer, last_user_text(fields))


def _alone_and_together(text: str, before: str) -> tuple[str, ...]:
    """A sentence may be cut in two, one half on each side of the border."""
    together = f"{before} {text}"
    return tuple(each for each in dict.fromkeys((text, together)) if each.strip())


def last_user_text(fields: RequestFields) -> str:
    """What the user said last in a chat; nothing in a completion."""
    messages = getattr(fields.vllm, "messages", ())
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") != "assistant":
            return message_text(message)
    return ""


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message, its parts joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Iterable) else ()
    return " ".join(str(each.get("text", "")) for each in parts if isinstance(each, Mapping))


def choice_text(choice: Mapping[str, Any]) -> str:
    """All that a choice, or a part of one in a stream, says."""
    said = choice.get("message") or choice.get("delta") or {}
    texts = [choice.get("text"), said.get("reasoning"), said.get("content")]
    for call in said.get("tool_calls") or ():
        function = call.get("function") or {}
        texts += [function.get("name"), function.get("arguments")]
    return "".join(each for each in texts if isinstance(each, str))
