"""Text of an answer that no model chose: what a client puts into the assistant's mouth.

A prompt rule reads where an assistant's turn opens. Text behind that place is not in what it read:
an answer that the client began, a prompt that is cut off or opens no turn at all, and whatever a
grammar, a forced tool, a token list or a bias made the model "say". All of it is the client's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pilothouse.server.prefixes import prefixes
from pilothouse.server.request_schema import Body, RequestFields

MAX_BANS = 16
"""Tokens and words that may be banned before what is left is the client's choice."""

_LITERAL_FORMATS = ("json_schema", "structural_tag")
"""Of `response_format`; plain `json_object` leaves every word to the model."""

_NO_TEXT = frozenset({"role", "type", "id", "image_url", "audio_url", "video_url", "input_audio"})
"""Keys of a message, or of a part of one, whose values a template does not render as words."""


def is_constrained(fields: RequestFields, *, pins_tools: bool = False) -> bool:
    """Whether the client, and not the model, may choose tokens of the answer.

    Args:
        pins_tools: the server has vLLM make a grammar of all tools that a request names.
    """
    read = fields.vllm.__dict__
    shape = read.get("response_format")
    tool = read.get("tool_choice")
    biases = (read.get("logit_bias") or {}).values()
    return bool(
        read.get("structured_outputs") is not None
        or (shape is not None and shape.type in _LITERAL_FORMATS)
        or (tool is not None and tool not in ("none", "auto"))
        or (tool == "auto" and _calls_are_written(read, pins_tools))
        or read.get("allowed_token_ids")
        or any(bias > 0 for bias in biases)
        or len(biases) + len(read.get("bad_words") or ()) > MAX_BANS
    )


def leans_on_tokens(fields: RequestFields) -> bool:
    """Whether the client says anything at all of which tokens may be chosen."""
    read = fields.vllm.__dict__
    return bool(is_constrained(fields) or read.get("logit_bias") or read.get("bad_words"))


def _calls_are_written(read: Mapping[str, Any], pins_tools: bool) -> bool:
    """Whether vLLM makes a grammar of the tools that a model may call, names or arguments."""
    strict = any(tool.function.strict for tool in read.get("tools") or ())
    return pins_tools or strict or read.get("parallel_tool_calls") is False


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
    """What is to be scored as a user's turn of an answer that the client constrained.

    Where words of the client's end and the model's begin is not known, so the answer is scored at
    each place where it could have ended.
    """
    before = last_user_text(body)
    ended = (f"{before} {each}" for each in prefixes(answer))
    return (*_alone_and_together(answer, before), *ended)


def answer_texts(answer: str, body: Body) -> tuple[str, ...]:
    """What is to be scored of an answer whose words the model chose."""
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
