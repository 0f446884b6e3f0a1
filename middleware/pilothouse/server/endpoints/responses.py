"""/v1/responses: one conversation, and one answer, which is a list of items.

Items and tools of a body are within bounds, and nothing of it is kept. vLLM keeps answers and
conversations in the memory of one API process, and runs tools of its own: what of that cannot be
governed is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

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
from pilothouse.policy.endpoint_names import EndpointName
from pilothouse.server.admission import Admitted
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
from pilothouse.server.guided_output import refuse_large_guide
from pilothouse.server.request_schema import (
    VLLM_EXPLAINS,
    Body,
    RequestFields,
    Unreadable,
    chooses_tokens,
    set_template_kwargs,
    unexplained,
    validated,
    write_back,
)
from pilothouse.server.response.decisions import ChoiceAction, ChoiceKey, Termination

TOOLS: Final = frozenset({"function", "custom"})
"""Kinds of tools that the client runs. All others would be run by the server."""
KEPT_BY_OTHERS: Final = ("previous_response_id", "conversation", "previous_input_messages")
OUTLIVES: Final[Mapping[str, str]] = {
    "background": "an answer that goes on without its client has nobody to be withheld from",
    "store": "no answer is kept here; ask without it, or with false",
}
FEW: Final = 4
"""So many entries are left to vLLM, which says of one that it cannot read what is wrong with it."""
_OF_CHAT: Final = (
    ChatCompletionRequest.model_fields.keys() - ResponsesRequest.model_fields.keys()
) - {"stream_options"}
"""Fields that mean something in a chat. OpenAI's endpoint has `stream_options`, vLLM's does not."""
_PARTS: Final = ("content", "output", "summary")
"""Fields of an item that may be lists, each entry of which vLLM reads by itself."""


async def refuse_large_request(body: Body, limits: ServedLimits) -> None:
    """Count items and their parts, tools, and the schema under `text`, and try each entry alone.

    vLLM compares an entry with some fifty kinds of items, and one that is of none of them costs
    hundreds of errors: a list of such entries would hold up the server for seconds.

    Raises:
        RequestError: more than a bound allows, or entries that vLLM does not read.
    """
    items = body.get("input")
    if items is not None and not isinstance(items, str | list):
        raise RequestError(
            f"input: got {type(items).__name__}, want a text or a list of items", param="input"
        )
    items = items if isinstance(items, list) else []
    parts = (item.get(name) for item in items if isinstance(item, dict) for name in _PARTS)
    num_parts = sum(len(each) for each in parts if isinstance(each, list))
    refuse_count("input", len(items) + num_parts, "max_items", limits, "input")
    tools = list(tools_of(body.get("tools")))
    refuse_count("tools", len(tools), "max_tools", limits, "tools")
    if body.get("text"):
        refuse_large_guide("text", body["text"], limits)
    if len(items) + num_parts + len(tools) > FEW:
        # In a thread, so that others come in between two entries.
        await asyncio.to_thread(_try_each, {"input": items, "tools": body.get("tools") or []})


def refuse_kept(body: Body) -> None:
    """Refuse what goes on from a conversation that is not in the body.

    Raises:
        RequestError: such a field.
    """
    for name in KEPT_BY_OTHERS:
        if body.get(name) is not None:
            reason = "no conversation is kept here; send its turns under input"
            raise RequestError(
                f"{name}: got {ascii(body[name])[:60]}, want none: {reason}", param=name
            )


def refuse_ungoverned(body: Body, asked: ResponsesRequest) -> None:
    """Refuse what outlives the request, what the server would run, and what is meant for a chat.

    Raises:
        RequestError: such a field.
    """
    for name, reason in OUTLIVES.items():
        if body.get(name) is not None and getattr(asked, name):
            raise RequestError(f"{name}: got true, want false: {reason}", param=name)
    for tool in tools_of(body.get("tools")):
        if tool.get("type") not in TOOLS:
            kind = ascii(tool.get("type"))[:60]
            raise RequestError(
                f"tools: got one of type {kind}, want {' or '.join(sorted(TOOLS))}: what the "
                "server runs itself, and gives back to the model, no rule looks at",
                param="tools",
            )
    foreign = sorted(name for name in _OF_CHAT if body.get(name) is not None)
    if foreign:
        raise RequestError(
            f"{foreign[0]}: it is a field of /v1/chat/completions and has no effect here; leave it "
            "out",
            param=foreign[0],
        )


def _try_each(lists: Mapping[str, list[Any]]) -> None:
    for field, entries in lists.items():
        for index, entry in enumerate(entries):
            try:
                validated({"input": "", field: [entry]}, ResponsesRequest)
            except (Unreadable, RequestError) as error:
                kind = entry.get("type") if isinstance(entry, dict) else type(entry).__name__
                raise RequestError(
                    f"{field}.{index}: got one of type {ascii(kind)[:60]} that cannot be read; "
                    "want one of the Responses API, with all that its type needs",
                    param=field,
                ) from error


def conversation(asked: ResponsesRequest) -> tuple[bool, list[Json]]:
    """Return whether the last turn is left open, and the turns as vLLM gives them to a template."""
    try:
        is_continued = should_continue_final_message(asked.input)
        made = construct_input_messages(
            request_instructions=asked.instructions, request_input=asked.input
        )
        return is_continued, [_plain(_without_status(each)) for each in made]
    except VLLM_EXPLAINS as error:
        raise Unreadable from error
    except Exception as error:
        raise unexplained(error) from error


def _without_status(message: Mapping[str, Any]) -> Json:
    """Return a message without what an item has beside it, which no template renders."""
    return {name: each for name, each in message.items() if name != "status"}


def _plain(value: Any) -> Any:
    """Return a value of vLLM's request in builtins; parts of it can be gone through only once."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    return value


def tools_of(tools: Any) -> Iterator[Json]:
    """Yield every tool of a body; those of a namespace in its place."""
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and tool.get("type") == "namespace":
            yield from tools_of(tool.get("tools"))
        else:
            yield tool if isinstance(tool, dict) else {}


def say_refusals_of_items(body: Body) -> None:
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


class Responses(Endpoint):
    """Responses: created, whole or streamed, and neither kept nor continued."""

    name: ClassVar[EndpointName] = "responses"

    def unserved(self, model_config: Any) -> str | None:
        """Close the endpoint where vLLM asks the engine several times for one answer."""
        if model_config.hf_config.model_type == "gpt_oss":
            return "vLLM asks gpt-oss several times for one answer; use /v1/chat/completions"
        if getattr(envs, "VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT", False):
            return (
                "with VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT vLLM asks the engine several times for "
                "one answer; unset it"
            )
        return None

    async def refuse_large(self, body: Body, limits: ServedLimits) -> None:
        """Count items and tools, and refuse the first that vLLM would not read."""
        await refuse_large_request(body, limits)

    def read(self, body: Body) -> RequestFields:
        """Read a conversation out of instructions and items, as vLLM makes one of them.

        Two things differ from vLLM's own reading, both on purpose: a refusal that a client sends
        back is rendered as text, and fields that vLLM's request does not have do not reach it.
        """
        refuse_kept(body)
        say_refusals_of_items(body)
        # vLLM's validators put objects of their own into what they are given.
        asked = validated(dict(body), ResponsesRequest)
        refuse_ungoverned(body, asked)
        for name in body.keys() - ResponsesRequest.model_fields.keys():
            del body[name]  # Some of vLLM's parsers look for attributes that no request declares.
        write_back(body, asked)
        body["store"] = False
        read = asked.__dict__
        shape = None if asked.text is None else asked.text.format
        is_continued, messages = conversation(asked)
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
                has_strict_tool=any(each.get("strict") for each in tools_of(body.get("tools"))),
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

    def as_error(self, ending: Termination, admitted: Admitted) -> bool:  # noqa: ARG002
        """Follow the rule."""
        return ending.as_error

    def spoken(self, part: Json) -> Iterator[Spoken]:
        """Yield the whole answer: the last event of a stream has all of it again."""
        response = part["response"] if part.get("type") in TERMINAL else part
        if response.get("object") == "response":
            yield Spoken(0, said(response["output"]), ended=True)

    def rewrite(self, body: Json, answer: Answer) -> list[ChoiceAction]:
        """Settle the answer; one that a verdict ends has a refusal or the canned text alone."""
        settlement = answer.settle(CHOICE)
        if settlement.ending is not None:
            item = ending_item(settlement.ending, answer.admitted.decision_id)
            end_response(body, settlement.ending, [item])
        mark_response(body, answer, settlement.visible)
        return [settlement.action]

    def stream(self, answer: Answer) -> ResponseStream:
        """Return what rewrites the events of a stream."""
        return ResponseStream(answer)


ENDPOINT = Responses()
