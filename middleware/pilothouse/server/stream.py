"""One streamed answer on its way out: chunks held, ended, marked, or passed on as they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from pilothouse.server.admission import Admitted
from pilothouse.server.family import Family
from pilothouse.server.ledger import Entry
from pilothouse.server.settlement import Deed, Ending, Settler
from pilothouse.server.sse import DONE, event_of, payload

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_FINISH, _UNFINISHED = b'"finish_reason":', b'"finish_reason":null'
_HEAD = ("id", "object", "created", "model")


class StreamShaper:
    """Shapes the events of one answer.

    Tokens under an output rule are held back in the scheduler, so what arrives here is cleared,
    unless a final rule may still end the answer: then each choice waits here for its end.
    """

    def __init__(self, family: Family, admitted: Admitted, entry: Entry, settler: Settler) -> None:
        self._family = family
        self._admitted = admitted
        self._entry = entry
        self._settler = settler
        self._head: Json = {}
        self._held: dict[int, list[Json]] = {}
        self._ended: set[int] = set()
        self._failed = False
        self._plain = admitted.asked_model is None and not admitted.exposure.buffers
        self.deeds: list[Deed] = []

    @property
    def failed(self) -> bool:
        """vLLM reported an error inside the stream."""
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
        if choice.get("finish_reason") is None:
            if not self._admitted.exposure.buffers:
                return [event_of(chunk)]
            self._held.setdefault(index, []).append(chunk)
            return []
        return self._finish(index, chunk, choice)

    def _finish(self, index: int, chunk: Json, choice: Json) -> list[bytes]:
        """The chunk with vLLM's finish reason is here."""
        settlement = self._settle(index)
        held = self._held.pop(index, [])
        if settlement.ending is None:
            choice["pilothouse"] = settlement.visible
            self._mark(chunk)
            return [*map(event_of, held), event_of(chunk)]
        sent = [*map(event_of, self._openings(held))]
        if not settlement.ending.withholds_all:
            sent = [*map(event_of, held)]
            cleared = self._family.cleared_part(choice)
            if cleared is not None:
                sent.append(event_of({**chunk, "choices": [cleared]}))
        return sent + self._ending(index, settlement.ending, settlement.visible, chunk)

    def _end_missing(self) -> list[bytes]:
        """vLLM sends no finishing chunk for a choice that never had a token: make it."""
        sent: list[bytes] = []
        if self._failed:
            return sent
        for index in range(self._admitted.num_prompts * self._admitted.num_per_prompt):
            log = self._entry.choices.get(self._family.key(index, self._admitted))
            if index in self._ended or log is None or log.verdict is None:
                continue
            settlement = self._settle(index)
            sent += map(event_of, self._openings(self._held.pop(index, [])))
            if settlement.ending is not None:
                sent += self._ending(index, settlement.ending, settlement.visible, self._head)
        return sent

    def _settle(self, index: int) -> Any:
        self._ended.add(index)
        key = self._family.key(index, self._admitted)
        settlement = self._settler.settle(self._admitted, self._entry, key)
        self.deeds.append(settlement.deed)
        return settlement

    def _ending(self, index: int, ending: Ending, visible: Json, chunk: Json) -> list[bytes]:
        parts = self._family.ending_parts(index, ending)
        parts[-1]["pilothouse"] = visible
        chunks: list[Json] = [{**self._head, "choices": [part]} for part in parts]
        if "usage" in chunk:
            chunks[-1]["usage"] = chunk["usage"]
        self._mark(chunks[-1])
        return [event_of(each) for each in chunks]

    def _openings(self, held: Iterable[Json]) -> Iterable[Json]:
        return (each for each in held if self._family.is_opening(each["choices"][0]))

    def _mark(self, chunk: Json) -> None:
        chunk["pilothouse"] = {
            "decision_id": self._admitted.decision_id,
            "revision": self._admitted.sealed.revision,
        }
