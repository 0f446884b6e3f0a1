"""Responses as vLLM makes them, by its own event processor and without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaFunctionCall, DeltaMessage, DeltaToolCall
from vllm.entrypoints.openai.responses.protocol import (
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseInProgressEvent,
    ResponsesRequest,
    ResponsesResponse,
)
from vllm.entrypoints.openai.responses.streaming_events import (
    SimpleStreamingEventProcessor,
    split_delta,
)

from pilothouse.server.answers import payload
from tests.support.servers.tiny_deployment import SERVED_NAME

Event = dict[str, Any]
TOOL = {"type": "function", "name": "fetch", "parameters": {"type": "object"}, "strict": None}
CUSTOM = {"type": "custom", "name": "note"}


def said(text: str) -> DeltaMessage:
    """A piece of the answer's text."""
    return DeltaMessage(content=text)


def thought(text: str) -> DeltaMessage:
    """A piece of reasoning."""
    return DeltaMessage(reasoning=text)


def called(name: str | None, arguments: str, index: int = 0) -> DeltaMessage:
    """A piece of a tool call; the first has the tool's name."""
    function = DeltaFunctionCall(name=name, arguments=arguments)
    return DeltaMessage(tool_calls=[DeltaToolCall(index=index, function=function)])


def streamed(deltas: Sequence[DeltaMessage], status: str = "completed") -> list[bytes]:
    """The events of a stream whose model says these pieces."""
    request = ResponsesRequest(input="the tide", model=SERVED_NAME, tools=[TOOL, CUSTOM])
    return [_event(*each) for each in enumerate(_events(request, deltas, status))]


def whole(deltas: Sequence[DeltaMessage], status: str = "completed") -> Event:
    """The body of an answer that is not streamed."""
    last = payload(streamed(deltas, status)[-1])
    assert last is not None
    response: Event = json.loads(last)["response"]
    return response


def read(events: Sequence[bytes]) -> list[Event]:
    """The JSON of every event."""
    return [json.loads(data) for data in map(payload, events) if data is not None]


def _events(
    request: ResponsesRequest, deltas: Sequence[DeltaMessage], status: str
) -> Iterator[Any]:
    processor = SimpleStreamingEventProcessor(tools=request.tools)
    first = _response(request, [], "in_progress")
    yield ResponseCreatedEvent(type="response.created", sequence_number=-1, response=first)
    yield ResponseInProgressEvent(type="response.in_progress", sequence_number=-1, response=first)
    for delta in deltas:
        for each in split_delta(delta):
            state, call = processor.resolve_target_state(each)
            if processor.needs_transition(state, call):
                yield from processor.close_current()
                yield from processor.open(state, call)
            yield from processor.emit_delta(each, None)
    yield from processor.close_current()
    last = _response(request, processor.output_items, status)
    yield ResponseCompletedEvent(type="response.completed", sequence_number=-1, response=last)


def _response(request: ResponsesRequest, output: list[Any], status: Any) -> Any:
    return ResponsesResponse.from_request(
        request,
        request.to_sampling_params(16, {}),
        model_name=SERVED_NAME,
        created_time=1,
        output=output,
        status=status,
    )


def _event(number: int, event: Any) -> bytes:
    event.sequence_number = number
    text = event.model_dump_json(indent=None, by_alias=True)
    return f"event: {event.type}\ndata: {text}\n\n".encode()
