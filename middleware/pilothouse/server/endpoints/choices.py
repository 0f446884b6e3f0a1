"""What chat and completions share: an answer is a list of `choices`, each with its own end.

A streamed one comes in chunks, which are held, ended, marked, or passed on as they are.
"""

from __future__ import annotations

import json
import logging
import re
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pilothouse.server.answers import DONE, event_of, payload
from pilothouse.server.endpoints.base import Answer, Endpoint, Json, Spoken
from pilothouse.server.request_schema import Body
from pilothouse.server.response.decisions import ChoiceAction, Settlement, Termination

logger = logging.getLogger(__name__)


Choice = dict[str, Any]

_LITERAL_FORMATS = ("json_schema", "structural_tag")
"""Of `response_format`; plain `json_object` leaves every word to the model."""
_SHOWS_MORE = ("prompt_logprobs", "kv_transfer_params", "ec_transfer_params")
"""Keys of a body that show more of a blocked answer than its choices do."""


class ChoiceEndpoint(Endpoint):
    """An endpoint with choices, which are plain JSON objects as vLLM made them."""

    object_name: ClassVar[str]
    """What vLLM writes under `object` of a chunk."""
    id_prefix: ClassVar[str]

    @abstractmethod
    def end_whole(self, choice: Choice, ending: Termination) -> None:
        """Rewrite a choice of a body, in place, into how a verdict ends it."""

    @abstractmethod
    def cleared_part(self, choice: Choice) -> Choice | None:
        """Return what a finishing chunk still carries of cleared tokens; None if nothing."""

    @abstractmethod
    def ending_parts(self, index: int, ending: Termination) -> list[Choice]:
        """Return the choices of the chunks that end a stream; the last has the finish reason."""

    @abstractmethod
    def is_opening(self, choice: Choice) -> bool:
        """Say whether a chunk opens a choice and says nothing yet."""

    def shortest(self, body: Body) -> Body:
        """Return the body with the fields that bound the answer's length at one token."""
        kept = {name: each for name, each in body.items() if name != "min_tokens"}
        kept["max_tokens"] = 1
        if kept.get("max_completion_tokens") is not None:
            kept["max_completion_tokens"] = 1
        return kept

    def spoken(self, part: Json) -> Iterator[Spoken]:
        """Yield what each choice of a body or chunk says."""
        for choice in part.get("choices") or ():
            ended = choice.get("finish_reason") is not None
            yield Spoken(choice["index"], choice_text(choice), ended)

    def rewrite(self, body: Json, answer: Answer) -> list[ChoiceAction]:
        """Settle, rewrite and mark every choice."""
        admitted = answer.admitted
        deeds: list[ChoiceAction] = []
        expected = list(range(admitted.num_choices))
        # Another number of choices means that what an index stands for is not known either.
        lost = admitted.requirements.ends and expected != sorted(
            choice["index"] for choice in body["choices"]
        )
        for choice in body["choices"]:
            if lost:
                settlement = answer.unaccounted()
            else:
                settlement = answer.settle(self.key(choice["index"], admitted))
            if settlement.ending is not None:
                self.end_whole(choice, settlement.ending)
                _end_body(body)
            choice["pilothouse"] = settlement.visible
            deeds.append(settlement.action)
        if admitted.asked_model is not None:
            body["model"] = admitted.asked_model
        body["pilothouse"] = answer.mark
        return deeds


def choice_fields(read: Mapping[str, Any]) -> dict[str, Any]:
    """Return what chat and completions read alike of vLLM's request, as arguments."""
    options = read["stream_options"]
    usage = options is not None and bool(options.include_usage)
    n = read["n"]
    return {
        "model": read["model"],
        "stream": bool(read["stream"]),
        "include_usage": usage,
        "continuous_usage": usage and bool(options.continuous_usage_stats),
        "num_per_prompt": n if n is not None and n > 0 else 1,
        "echo": bool(read["echo"]),
        "truncated": read["truncate_prompt_tokens"] is not None,
        "use_beam_search": read["use_beam_search"],
        "kv_transfer_params": bool(read["kv_transfer_params"]),
        "ec_transfer_params": bool(read["ec_transfer_params"]),
        "xargs": read["vllm_xargs"] or {},
    }


def has_literal_shape(read: Mapping[str, Any]) -> bool:
    """Say whether `response_format` lets the client choose words of the answer."""
    shape = read["response_format"]
    return shape is not None and shape.type in _LITERAL_FORMATS


def prompt_logprobs(read: Mapping[str, Any], *, echoed: int | None) -> int | None:
    """Return how many logprobs of the prompt are asked for, by themselves or by an echo."""
    asked: int | None = read["prompt_logprobs"]
    return echoed if asked is None and read["echo"] else asked


def choice_text(choice: Mapping[str, Any]) -> str:
    """Return all that a choice, or a part of one in a stream, says."""
    said = choice.get("message") or choice.get("delta") or {}
    texts = [choice.get("text"), said.get("reasoning"), said.get("content")]
    for call in said.get("tool_calls") or ():
        function = call.get("function") or {}
        texts += [function.get("name"), function.get("arguments")]
    return "".join(each for each in texts if isinstance(each, str))


def finish_reason(ending: Termination) -> str:
    """Return the `finish_reason` of a choice that a verdict ends."""
    return "stop" if ending.action == "respond" else "content_filter"


def _end_body(body: Json) -> None:
    for name in _SHOWS_MORE:
        if name in body:
            body[name] = None


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
