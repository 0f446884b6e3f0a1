"""/v1/chat/completions: one conversation, `n` answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.server.admission import Admitted
from pilothouse.server.endpoints.base import Answer
from pilothouse.server.endpoints.choices import (
    ChoiceEndpoint,
    ChoiceStream,
    choice_fields,
    finish_reason,
    has_literal_shape,
    prompt_logprobs,
)
from pilothouse.server.request_schema import (
    Body,
    RequestFields,
    chooses_tokens,
    drop_empty,
    set_template_kwargs,
    validated,
    write_back,
)
from pilothouse.server.response.decisions import ChoiceKey, Termination

_WITHHELD = ("logprobs", "stop_reason", "token_ids", "routed_experts", "weight_versions")
_SAID = ("content", "reasoning", "function_call", "audio", "annotations", "refusal")


class Chat(ChoiceEndpoint):
    """Chat completions."""

    name: ClassVar[EndpointName] = "chat"
    object_name = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def read(self, body: Body) -> RequestFields:
        """Read a chat.

        Two things differ from vLLM's own reading, both on purpose: a refusal that a client sends
        back is rendered as text, and an empty `chat_template` means none.
        """
        say_refusals(body)
        drop_empty(body)
        asked = validated(body, ChatCompletionRequest)
        write_back(body, asked)
        read = asked.__dict__
        return RequestFields(
            **choice_fields(read),
            messages=body["messages"],
            roles=tuple(_role(each) for each in read["messages"]),
            add_generation_prompt=read["add_generation_prompt"],
            continue_final_message=read["continue_final_message"],
            num_logprobs=read["top_logprobs"] if read["logprobs"] else None,
            num_prompt_logprobs=prompt_logprobs(read, echoed=read["top_logprobs"]),
            chat_template=bool(read["chat_template"]),
            template_kwargs=set_template_kwargs(read["chat_template_kwargs"]),
            constrained=chooses_tokens(
                read,
                has_literal_shape=has_literal_shape(read),
                has_strict_tool=any(tool.function.strict for tool in read["tools"] or ()),
            ),
            may_call=read["tool_choice"] == "auto",
            vllm=asked,
        )

    def key(self, index: int, admitted: Admitted) -> ChoiceKey:  # noqa: ARG002
        """Return the key of the only prompt."""
        return (0, index)

    def as_error(self, ending: Termination, admitted: Admitted) -> bool:  # noqa: ARG002
        """Follow the rule."""
        return ending.as_error

    def end_whole(self, choice: dict[str, Any], ending: Termination) -> None:
        """Write a refusal with null content, or the canned answer."""
        message = choice["message"]
        for name in _SAID:
            if name in message:
                message[name] = None
        message.pop("tool_calls", None)
        message["content"], message["refusal"] = _content(ending), _refusal(ending)
        for name in _WITHHELD:
            if name in choice:
                choice[name] = None
        choice["finish_reason"] = finish_reason(ending)

    def cleared_part(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return the delta, if it says anything."""
        if not any(choice["delta"].values()) and not choice.get("token_ids"):
            return None
        kept = {**choice, "finish_reason": None}
        for name in ("stop_reason", "weight_versions"):
            kept.pop(name, None)
        return kept

    def ending_parts(self, index: int, ending: Termination) -> list[dict[str, Any]]:
        """Return one chunk with the refusal or canned text, one with the finish reason."""
        said = {"refusal": ending.message}
        if ending.action == "respond":
            said = {"content": ending.message}
        empty = {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}
        end = {"finish_reason": finish_reason(ending), "stop_reason": None}
        return [
            {**empty, "delta": said, "token_ids": None},
            {**empty, **end, "token_ids": None},
        ]

    def is_opening(self, choice: dict[str, Any]) -> bool:
        """Recognise the chunk that names the role."""
        delta = choice["delta"]
        return "role" in delta and not delta.get("content")

    def stream(self, answer: Answer) -> ChoiceStream:
        """Return what rewrites the chunks of a stream."""
        return ChoiceStream(self, answer)


def say_refusals(body: Body) -> None:
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


def _role(message: Any) -> str:
    """Messages are objects of JSON, or of vLLM's for what it reads as gpt-oss's own format."""
    if isinstance(message, Mapping):
        return str(message["role"])
    return str(getattr(message.author.role, "value", message.author.role))


def _content(ending: Termination) -> str | None:
    return ending.message if ending.action == "respond" else None


def _refusal(ending: Termination) -> str | None:
    return None if ending.action == "respond" else ending.message


ENDPOINT = Chat()
