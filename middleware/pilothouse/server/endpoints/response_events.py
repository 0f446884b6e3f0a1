"""The events of a streamed response, and how a verdict ends the response that they tell of."""

from __future__ import annotations

import json
import logging
from typing import Final

from pilothouse.server.answers import event_of, payload
from pilothouse.server.endpoints.base import Answer, Json
from pilothouse.server.response.decisions import ChoiceAction, ChoiceKey, Termination

logger = logging.getLogger(__name__)

CHOICE: Final[ChoiceKey] = (0, 0)
"""A response is one answer to one prompt."""
OPENING: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
"""vLLM sends these before the engine has been heard of."""
TERMINAL: Final = frozenset({"response.completed", "response.incomplete"})
_FAILURE: Final = frozenset({"error", "response.failed"})
_CALL_DONE: Final = frozenset(
    {"response.function_call_arguments.done", "response.custom_tool_call_input.done"}
)
"""With these a client may take a call for whole, and carry it out."""
_ITEM_DONE: Final = "response.output_item.done"
_TEXT_DELTA: Final = b"event: response.output_text.delta\n"
_SHOWS_MORE: Final = ("output_messages", "kv_transfer_params", "ec_transfer_params")
"""Fields of a response that show more of a blocked answer than its items do."""


class ResponseStream:
    """Rewrites the events of one response.

    Every item that vLLM opens it closes with the text that was cleared, also where a verdict cut
    it. What the policies say in place of an answer is an item of its own behind these.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._held: list[Json] = []
        self._items: list[Json] = []
        """Output items that have been sent whole."""
        self._num_sent = 0
        self._may_start = False
        self._ended = False
        self._failed = False
        self.deeds: list[ChoiceAction] = []

    @property
    def failed(self) -> bool:
        """True once vLLM reported an error inside the stream."""
        return self._failed

    @property
    def may_start(self) -> bool:
        """True once vLLM sent an event that waits for the engine."""
        return self._may_start

    def feed(self, event: bytes) -> list[bytes]:
        """Return what is to be sent in place of one event."""
        if event.startswith(_TEXT_DELTA) and not (self._ended or self._holds or self._is_cut):
            # Nothing was dropped so far, so that the numbers of vLLM's events are still right.
            self._may_start = True
            self._num_sent += 1
            return [event]
        data = payload(event)
        if data is None:
            return [event]
        try:
            content = json.loads(data)
        except ValueError:
            logger.error("dropped an event of the answer that is not JSON")
            return []
        return [] if self._ended else self._event(content)

    @property
    def _holds(self) -> bool:
        """True where nothing leaves yet: a final rule may end it, or the engine told nothing."""
        requirements = self._answer.admitted.requirements
        return requirements.buffers or (requirements.ends and self._answer.log(CHOICE) is None)

    @property
    def _is_cut(self) -> bool:
        """True once a verdict is known: what vLLM closes from then on may be cut off."""
        log = self._answer.log(CHOICE)
        return log is not None and log.verdict is not None

    def _event(self, content: Json) -> list[bytes]:
        kind = content.get("type")
        if kind in OPENING:
            mark_response(content["response"], self._answer)
            return [self._sent(content)]
        self._may_start = True
        if kind in _FAILURE or kind is None:
            self._failed = self._ended = True
            self._held.clear()
            return [self._sent(content)]
        if kind in TERMINAL:
            return self._finish(content)
        if self._holds:
            self._held.append(content)
            return []
        return self._passed(content)

    def _passed(self, content: Json) -> list[bytes]:
        if content["type"] in _CALL_DONE and self._is_cut:
            return []
        if content["type"] == _ITEM_DONE:
            if self._is_cut:
                content["item"]["status"] = "incomplete"
            self._items.append(content["item"])
        return [self._sent(content)]

    def _finish(self, content: Json) -> list[bytes]:
        """Settle the answer, now that vLLM's last event is here, which has all of it again."""
        settlement = self._answer.settle(CHOICE)
        self.deeds.append(settlement.action)
        sent: list[bytes] = []
        ending = settlement.ending
        if ending is None or not ending.withholds_all:
            sent = [each for held in self._held for each in self._passed(held)]
        self._held.clear()
        if ending is not None:
            item = ending_item(ending, self._answer.admitted.decision_id)
            sent += self._told(item, len(self._items))
            end_response(content["response"], ending, [*self._items, item])
            is_whole = ending.action == "respond"
            content["type"] = "response.completed" if is_whole else "response.incomplete"
        mark_response(content["response"], self._answer, settlement.visible)
        self._ended = True
        return [*sent, self._sent(content)]

    def _told(self, item: Json, output_index: int) -> list[bytes]:
        """Return the events of an item of ours, as vLLM's own items have them."""
        [part] = item["content"]
        key = "refusal" if part["type"] == "refusal" else "text"
        at = {"item_id": item["id"], "output_index": output_index, "content_index": 0}
        words = f"response.{part['type']}"
        shown: Json = {} if key == "refusal" else {"logprobs": []}
        events: list[Json] = [
            {
                "type": "response.output_item.added",
                "output_index": output_index,
                "item": item | {"status": "in_progress", "content": []},
            },
            {"type": "response.content_part.added", **at, "part": part | {key: ""}},
            {"type": f"{words}.delta", **at, "delta": part[key], **shown},
            {"type": f"{words}.done", **at, key: part[key], **shown},
            {"type": "response.content_part.done", **at, "part": part},
            {"type": _ITEM_DONE, "output_index": output_index, "item": item},
        ]
        return [self._sent(each) for each in events]

    def _sent(self, content: Json) -> bytes:
        content["sequence_number"] = self._num_sent
        self._num_sent += 1
        return event_of(content, content.get("type") or "error")


def ending_item(ending: Termination, decision_id: str) -> Json:
    """Return the message that stands in place of an answer: a refusal, or the canned text."""
    part: Json = {"type": "refusal", "refusal": ending.message}
    status = "incomplete"
    if ending.action == "respond":
        part = {"type": "output_text", "text": ending.message, "annotations": [], "logprobs": None}
        status = "completed"
    return {
        "id": f"msg_{decision_id}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
        "phase": None,
    }


def end_response(response: Json, ending: Termination, output: list[Json]) -> None:
    """Rewrite a response, in place, into how a verdict ends it.

    Args:
        response: the object, which is changed in place.
        ending: how it ends.
        output: the items that are left of it.
    """
    response["output"] = output
    blocked = ending.action == "block"
    response["status"] = "incomplete" if blocked else "completed"
    response["incomplete_details"] = {"reason": "content_filter"} if blocked else None
    for name in _SHOWS_MORE:
        if name in response:
            response[name] = None


def mark_response(response: Json, answer: Answer, visible: Json | None = None) -> None:
    """Write the name that was asked for, and our own object, into a response.

    Args:
        response: the object, which is changed in place.
        answer: what was decided on it.
        visible: what the client is told of the answer, once it has ended.
    """
    if answer.admitted.asked_model is not None:
        response["model"] = answer.admitted.asked_model
    response["pilothouse"] = answer.mark | (visible or {})


def said(output: list[Json]) -> str:
    """Return all that the items of a response say: thoughts, texts, calls."""
    texts: list[object] = []
    for item in output:
        for part in (*(item.get("summary") or ()), *(item.get("content") or ())):
            texts += [part.get("text"), part.get("refusal")]
        if str(item.get("type")).endswith("_call"):
            texts += [item.get("name"), item.get("arguments"), item.get("input")]
    return "".join(each for each in texts if isinstance(each, str))
