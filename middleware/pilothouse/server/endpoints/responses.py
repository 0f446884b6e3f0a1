"""/v1/responses: one conversation, and one answer, which is a list of items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from vllm import envs
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from pilothouse.limits import ServedLimits
from pilothouse.policy.endpoint_names import EndpointName
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
from pilothouse.server.endpoints.response_request import (
    conversation,
    refuse_kept,
    refuse_large_request,
    refuse_ungoverned,
    say_refusals_of_items,
    tools_of,
)
from pilothouse.server.request_schema import (
    Body,
    RequestFields,
    set_template_kwargs,
    validated,
    write_back,
)
from pilothouse.server.response.decisions import ChoiceAction, ChoiceKey, Termination


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
