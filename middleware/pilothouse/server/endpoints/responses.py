"""/v1/responses: one conversation, and one answer, which is a list of items.

vLLM keeps answers and conversations in the memory of one API process, and may ask the engine more
than once for one answer. What of that cannot be governed is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from vllm import envs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import (
    construct_input_messages,
    should_continue_final_message,
)

from pilothouse.errors import RequestError
from pilothouse.limits import ServedLimits, refuse_count
from pilothouse.policy.endpoint import EndpointName
from pilothouse.server.admission import Admitted
from pilothouse.server.client_text import chooses_tokens
from pilothouse.server.endpoints.base import Answer, Endpoint, Json, Spoken
from pilothouse.server.endpoints.response_events import (
    CHOICE,
    TERMINAL,
    ResponseStream,
    end_response,
    ending_item,
    mark_response,
    said,
)
from pilothouse.server.guide import refuse_large_guide
from pilothouse.server.ledger import ChoiceKey
from pilothouse.server.request_schema import (
    VLLM_EXPLAINS,
    Body,
    RequestFields,
    Unreadable,
    set_template_kwargs,
    unexplained,
    validated,
    write_back,
)
from pilothouse.server.settlement import Deed, Ending

TOOLS: Final = frozenset({"function", "custom"})
"""Kinds of tools that the client runs. All others would be run by the server."""
_NO_HISTORY: Final = "no conversation is kept here; send its turns under input"
_UNGOVERNED: Final[Mapping[str, str]] = {
    "background": "an answer that goes on without its client has nobody to be withheld from",
    "store": "no answer is kept here; ask without it, or with false",
    "previous_response_id": _NO_HISTORY,
    "conversation": _NO_HISTORY,
    "previous_input_messages": _NO_HISTORY,
}
"""What is refused where it is asked for, and why."""
_READ_ELSEWHERE: Final = (
    ChatCompletionRequest.model_fields.keys() - ResponsesRequest.model_fields.keys()
) - {"stream_options"}
"""Fields that mean something in a chat. OpenAI's endpoint has `stream_options`, vLLM's does not."""


class Responses(Endpoint):
    """Responses: created, whole or streamed, and neither kept nor continued."""

    name: EndpointName = "responses"

    def unserved(self, model_config: Any) -> str | None:
        """Close the endpoint where vLLM asks the engine several times for one answer."""
        if model_config.hf_config.model_type == "gpt_oss":
            return "vLLM asks gpt-oss several times for one answer; use /v1/chat/completions"
        if envs.VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT:
            return (
                "with VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT vLLM asks the engine several times for "
                "one answer; unset it"
            )
        return None

    def refuse_large(self, body: Body, limits: ServedLimits) -> None:
        """Count items, their parts, tools in namespaces, and the schema under `text`."""
        items = body.get("input")
        listed = items if isinstance(items, list) else []
        refuse_count("input", len(listed), "max_messages", limits, "input")
        parts = sum(
            len(part)
            for item in listed
            if isinstance(item, dict)
            for part in (item.get("content"), item.get("output"), item.get("summary"))
            if isinstance(part, list)
        )
        refuse_count("input.content", parts, "max_content_parts", limits, "input")
        refuse_count("tools", len(list(_tools(body.get("tools")))), "max_tools", limits, "tools")
        if body.get("text"):
            refuse_large_guide("text", body["text"], limits)

    def read(self, body: Body) -> RequestFields:
        """Read a conversation out of instructions and items, as vLLM makes one of them.

        Two things differ from vLLM's own reading, both on purpose: a refusal that a client sends
        back is rendered as text, and fields that vLLM's request does not have do not reach it.
        """
        _say_refusals(body)
        # vLLM's validators put objects of their own into what they are given.
        asked = validated(dict(body), ResponsesRequest)
        _refuse_ungoverned(body, asked)
        for name in body.keys() - ResponsesRequest.model_fields.keys():
            del body[name]  # Some of vLLM's parsers look for attributes that no request declares.
        write_back(body, asked)
        body["store"] = False
        read = asked.__dict__
        shape = None if asked.text is None else asked.text.format
        is_continued, messages = _conversation(asked)
        return RequestFields(
            model=read["model"],
            stream=bool(read["stream"]),
            messages=messages,
            roles=tuple(str(each["role"]) for each in messages),
            add_generation_prompt=not is_continued,
            continue_final_message=is_continued,
            num_logprobs=read["top_logprobs"] if asked.is_include_output_logprobs() else None,
            template_kwargs=set_template_kwargs(read["chat_template_kwargs"]),
            truncated=read["truncation"] != "disabled",
            constrained=chooses_tokens(
                read,
                has_literal_shape=shape is not None and shape.type == "json_schema",
                has_strict_tool=any(each.get("strict") for each in _tools(body.get("tools"))),
            ),
            may_call=read["tool_choice"] == "auto",
            kv_transfer_params=bool(read["kv_transfer_params"]),
            ec_transfer_params=bool(read["ec_transfer_params"]),
            xargs=read["vllm_xargs"] or {},
            vllm=asked,
        )

    def shortest(self, body: Body) -> Body:
        """Return the body with an answer of one token."""
        return {**body, "max_output_tokens": 1}

    def key(self, index: int, admitted: Admitted) -> ChoiceKey:  # noqa: ARG002
        """Return the key of the only answer."""
        return CHOICE

    def as_error(self, ending: Ending, admitted: Admitted) -> bool:  # noqa: ARG002
        """Follow the rule."""
        return ending.as_error

    def spoken(self, part: Json) -> Iterator[Spoken]:
        """Yield the whole answer: the last event of a stream has all of it again."""
        response = part["response"] if part.get("type") in TERMINAL else part
        if response.get("object") == "response":
            yield Spoken(0, said(response["output"]), ended=True)

    def rewrite(self, body: Json, answer: Answer) -> list[Deed]:
        """Settle the answer; one that a verdict ends has a refusal or the canned text alone."""
        settlement = answer.settle(CHOICE)
        if settlement.ending is not None:
            item = ending_item(settlement.ending, answer.admitted.decision_id)
            end_response(body, settlement.ending, [item])
        mark_response(body, answer, settlement.visible)
        return [settlement.deed]

    def stream(self, answer: Answer) -> ResponseStream:
        """Return what rewrites the events of a stream."""
        return ResponseStream(answer)


def _refuse_ungoverned(body: Body, asked: ResponsesRequest) -> None:
    """Refuse what outlives the request, what others hold, and what is meant for a chat."""
    for name, reason in _UNGOVERNED.items():
        value = getattr(asked, name, None) if body.get(name) is not None else None
        if value is not None and value is not False:
            shown = ascii(value)[:60]
            raise RequestError(f"{name}: got {shown}, want none: {reason}", param=name)
    for tool in _tools(body.get("tools")):
        if tool.get("type") not in TOOLS:
            kind = ascii(tool.get("type"))[:60]
            raise RequestError(
                f"tools: got one of type {kind}, want {' or '.join(sorted(TOOLS))}: what the "
                "server runs itself, and gives back to the model, no rule looks at",
                param="tools",
            )
    foreign = sorted(name for name in _READ_ELSEWHERE if body.get(name) is not None)
    if foreign:
        raise RequestError(
            f"{foreign[0]}: it is a field of /v1/chat/completions and has no effect here; leave it "
            "out",
            param=foreign[0],
        )


def _conversation(asked: ResponsesRequest) -> tuple[bool, list[Json]]:
    """Return whether the last turn is left open, and the turns as vLLM gives them to a template."""
    try:
        is_continued = should_continue_final_message(asked.input)
        made = construct_input_messages(
            request_instructions=asked.instructions, request_input=asked.input
        )
        return is_continued, [_plain(each) for each in made]
    except VLLM_EXPLAINS as error:
        raise Unreadable from error
    except Exception as error:
        raise unexplained(error) from error


def _plain(value: Any) -> Any:
    """Return a value of vLLM's request in builtins; parts of it can be gone through only once."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    return value


def _tools(tools: Any) -> Iterator[Json]:
    """Yield every tool of a body; those of a namespace in its place."""
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        if tool.get("type") == "namespace":
            yield from _tools(tool.get("tools"))
        else:
            yield tool


def _say_refusals(body: Body) -> None:
    """Have a refusal that comes back in the history rendered as the assistant's text. In place."""
    items = body.get("input")
    for item in items if isinstance(items, list) else ():
        parts = item.get("content") if isinstance(item, dict) else None
        if not isinstance(parts, list) or item.get("role") != "assistant":
            continue
        for part in parts:
            if isinstance(part, dict) and isinstance(part.get("refusal"), str):
                text = part.pop("refusal")
                part |= {"type": "output_text", "text": text, "annotations": []}


ENDPOINT = Responses()
