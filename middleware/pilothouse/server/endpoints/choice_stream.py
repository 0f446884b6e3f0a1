"""A streamed answer with choices: chunks held, ended, marked, or passed on as they are."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable

from pilothouse.server.endpoints.base import Answer, Json
from pilothouse.server.endpoints.choices import ChoiceEndpoint
from pilothouse.server.response.final_decision import ChoiceAction, Settlement, Termination
from pilothouse.server.response.sse import DONE, event_of, payload

logger = logging.getLogger(__name__)

_FINISH, _UNFINISHED = b'"finish_reason":', b'"finish_reason":null'
_INDEX = re.compile(rb'"choices":\[\{"index":(\d+),')
_HEAD = ("id", "object", "created", "model")


class ChoiceStream:
    """Rewrites the chunks of one answer, choice by choice."""

    may_start = True
    """vLLM's first chunk comes with the first output of the engine."""

    def __init__(self, endpoint: ChoiceEndpoint, answer: Answer) -> None:
        admitted = answer.admitted
        self._endpoint = endpoint
        self._answer = answer
        self._admitted = admitted
        self._entry = answer.entry
        self._head: Json = {}
        self._tells_usage = admitted.continuous_usage
        """Every chunk has the usage of its choice so far."""
        self._usage: dict[int, Json] = {}
        self._held: dict[int, list[Json]] = {}
        self._known: set[int] = set()
        """Choices that the scheduler has given an account of."""
        self._lost = False
        self._ended: set[int] = set()
        self._failed = False
        self._plain = admitted.asked_model is None and not admitted.requirements.buffers
        self.deeds: list[ChoiceAction] = []

    @property
    def failed(self) -> bool:
        """VLLM reported an error inside the stream."""
        return self._failed

    def feed(self, event: bytes) -> list[bytes]:
        """What is to be sent in place of one event."""
        data = payload(event)
        if data is None:
            return [event]
        if data == b"[DONE]":
            return [*self._end_missing(), DONE]
        if self._plain and self._head and data.count(_FINISH) == 1 and _UNFINISHED in data:
            # Inside a JSON string the quotes would be escaped: this is one unfinished choice.
            found = _INDEX.search(data)
            if found is not None and int(found[1]) in self._known:
                return [event]
        try:
            chunk = json.loads(data)
        except ValueError:
            logger.error("dropped an event of the answer that is not JSON")
            return []
        return self._chunk(chunk)

    def _chunk(self, chunk: Json) -> list[bytes]:
        if "error" in chunk:
            self._failed = True
            self._held.clear()
            return [event_of(chunk)]
        first = not self._head
        self._head = {name: chunk[name] for name in _HEAD if name in chunk}
        if self._admitted.asked_model is not None:
            chunk["model"] = self._head["model"] = self._admitted.asked_model
        if not chunk["choices"]:
            # Usage that nobody asked for is the operator's setting, and then every chunk has it.
            self._tells_usage = self._tells_usage or not self._admitted.include_usage
            return [*self._end_missing(), event_of(chunk)]
        if first:
            self._mark(chunk)
        sent: list[bytes] = []
        for choice in chunk["choices"]:
            sent += self._choice({**chunk, "choices": [choice]}, choice)
        return sent

    def _choice(self, chunk: Json, choice: Json) -> list[bytes]:
        index = choice["index"]
        if index in self._ended:
            return []
        if "usage" in chunk:
            self._tells_usage = True
            self._usage[index] = chunk["usage"]
        if not self._accounted(index) and not self._endpoint.is_opening(choice):
            return self._finish(index, chunk, choice)
        if choice.get("finish_reason") is None:
            if not self._admitted.requirements.buffers:
                return [event_of(chunk)]
            self._held.setdefault(index, []).append(chunk)
            return []
        return self._finish(index, chunk, choice)

    def _accounted(self, index: int) -> bool:
        """The scheduler has told of this choice; or nothing could end it, and it need not."""
        if index in self._known:
            return True
        if self._admitted.requirements.ends:
            self._lost = self._lost or index >= self._admitted.num_choices
            key = self._endpoint.key(index, self._admitted)
            if self._lost or key not in self._entry.choices:
                return False
        self._known.add(index)
        return True

    def _finish(self, index: int, chunk: Json, choice: Json) -> list[bytes]:
        """The chunk with vLLM's finish reason is here, or one of a choice that has no account."""
        settlement = self._settle(index)
        held = self._held.pop(index, [])
        if settlement.ending is None:
            choice["pilothouse"] = settlement.visible
            self._mark(chunk)
            return [*map(event_of, held), event_of(chunk)]
        sent = [*map(event_of, self._openings(held))]
        if not settlement.ending.withholds_all:
            sent = [*map(event_of, held)]
            cleared = self._endpoint.cleared_part(choice)
            if cleared is not None:
                sent.append(event_of({**chunk, "choices": [cleared]}))
        return sent + self._ending(index, settlement.ending, settlement.visible)

    def _end_missing(self) -> list[bytes]:
        """VLLM sends no finishing chunk for a choice that never had a token: make it."""
        sent: list[bytes] = []
        if self._failed:
            return sent
        for index in range(self._admitted.num_choices):
            log = self._entry.choices.get(self._endpoint.key(index, self._admitted))
            if index in self._ended or (log is not None and log.verdict is None):
                continue
            if log is None and not self._admitted.requirements.ends:
                continue
            settlement = self._settle(index)
            sent += map(event_of, self._openings(self._held.pop(index, [])))
            if settlement.ending is not None:
                sent += self._ending(index, settlement.ending, settlement.visible)
        return sent

    def _settle(self, index: int) -> Settlement:
        self._ended.add(index)
        if self._lost:
            settlement = self._answer.unaccounted()
        else:
            settlement = self._answer.settle(self._endpoint.key(index, self._admitted))
        self.deeds.append(settlement.action)
        return settlement

    def _ending(self, index: int, ending: Termination, visible: Json) -> list[bytes]:
        """Chunks of ours, each with every key that a chunk of vLLM's has in its place."""
        parts = self._endpoint.ending_parts(index, ending)
        parts[-1]["pilothouse"] = visible
        head = self._head or self._own_head()
        chunks: list[Json] = [{**head, "choices": [part]} for part in parts]
        if self._tells_usage:
            for each in chunks:
                each["usage"] = self._usage.get(index) or self._usage_before_any(index)
        elif self._admitted.system_fingerprint is not None:
            chunks[-1]["system_fingerprint"] = self._admitted.system_fingerprint
        self._mark(chunks[-1])
        return [event_of(each) for each in chunks]

    def _own_head(self) -> Json:
        """VLLM has sent nothing: completions open no choice before its first token."""
        return {
            "id": self._endpoint.id_prefix + self._admitted.decision_id,
            "object": self._endpoint.object_name,
            "created": int(time.time()),
            "model": self._admitted.model_label,
        }

    def _usage_before_any(self, index: int) -> Json:
        log = self._entry.choices.get(self._endpoint.key(index, self._admitted))
        prompt = log.newest.num_prompt_tokens if log is not None else 0
        return {"prompt_tokens": prompt, "total_tokens": prompt, "completion_tokens": 0}

    def _openings(self, held: Iterable[Json]) -> Iterable[Json]:
        return (each for each in held if self._endpoint.is_opening(each["choices"][0]))

    def _mark(self, chunk: Json) -> None:
        chunk["pilothouse"] = self._answer.mark
