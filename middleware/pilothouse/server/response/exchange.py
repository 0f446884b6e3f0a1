"""One governed request and its answer: stands between vLLM's `send` and the server's."""

from __future__ import annotations

import json
from typing import Any, Literal

from starlette.types import Message, Send

from pilothouse.server.answers import EventSplitter, encode, error_body, is_encoded, send_json
from pilothouse.server.endpoints.base import Answer, Endpoint
from pilothouse.server.rescoring import ForcedAnswer
from pilothouse.server.response.decisions import ACTIONS, ChoiceAction, Termination
from pilothouse.telemetry.metrics import RequestAction

_OVERLOADED = (
    "every steering program slot is in use; try again, or ask the operator to raise "
    "limits.max_programs"
)
_ENCODED = (
    "the answer was encoded before the policies saw it; a --middleware of the operator's must not "
    "compress answers, the proxy in front may"
)
_SCATTERED = (
    "pilothouse.steer: positions.after: its tokens cut the prompt into more stretches than "
    "limits.max_segments; name rarer tokens, a longer span, or ask the operator to raise the limit"
)
_REFUSED = {
    "encoded": (503, _ENCODED),
    "capacity": (503, _OVERLOADED),
    "segments": (400, _SCATTERED),
    "silent": (503, "the engine answered without telling what the policies concluded"),
    "seal": (403, "the engine refused a request that the gate had not sealed"),
}


class Exchange:
    """The answer to one admitted request."""

    def __init__(
        self,
        endpoint: Endpoint,
        answer: Answer,
        send: Send,
        forced: ForcedAnswer | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._forced = forced
        self._answer = answer
        self._admitted = answer.admitted
        self._entry = answer.entry
        self._settler = answer.settler
        self._send = send
        self._start: Message | None = None
        self._mode: Literal["stream", "whole", "encoded", "untouched"] = "untouched"
        self._body = b""
        self._events = EventSplitter()
        self._rewriter = endpoint.stream(answer)
        self._pending: list[bytes] = []
        self._started = False
        self._done = False
        self._status = 0
        self._deeds: list[ChoiceAction] = []

    async def send(self, message: Message) -> None:
        """What vLLM's app calls to answer."""
        if self._done:
            return
        if message["type"] == "http.response.start":
            self._open(message)
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        piece, more = message.get("body", b""), message.get("more_body", False)
        if self._mode == "stream":
            await self._stream(piece, more)
        else:
            await self._whole(piece, more)

    async def answered_failure(self) -> bool:
        """Answer for an app that raised because the scheduler refused the request.

        vLLM's stream of some endpoints begins before the engine is heard of, and breaks then.
        """
        if self._done or self._started or self._entry.error is None:
            return False
        await self._answer_refused(self._entry.error)
        return True

    @property
    def outcome(self) -> RequestAction:
        """What became of the request; for the count of requests."""
        if not self._done:
            return "abort"
        if self._status != 200 or self._rewriter.failed:
            verdict = self._status == 400 and self._early_ending() is not None
            return "block" if verdict else "error"
        deeds = self._deeds or self._rewriter.deeds
        return max(deeds, key=ACTIONS.index, default="allow")

    def _open(self, message: Message) -> None:
        self._start = message
        self._status = message["status"]
        kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
        kind = kinds[0] if kinds else b""
        if self._status == 200 and is_encoded(message["headers"]):
            self._mode = "encoded"
        elif self._status == 200:
            self._mode = "stream" if kind.startswith(b"text/event-stream") else "whole"

    async def _stream(self, piece: bytes, more: bool) -> None:
        for event in self._events.feed(piece):
            if self._forced is not None:
                await self._forced.event(event)
            self._pending += self._rewriter.feed(event)
        if not self._started:
            if more and not self._may_start():
                return
            if await self._answered_early():
                return
            self._started = True
            await self._send_start(length=None)
        self._done = not more
        if self._pending or not more:
            ready, self._pending = b"".join(self._pending), []
            await self._send({"type": "http.response.body", "body": ready, "more_body": more})

    def _may_start(self) -> bool:
        """Headers name the prompt's verdict, so where rules can reach it they wait for it."""
        if self._entry.error is not None:
            return True
        if not self._rewriter.may_start:
            return False
        if not self._admitted.requirements.holds_start:
            return True
        return self._entry.prompt_settled

    async def _whole(self, piece: bytes, more: bool) -> None:
        self._body += piece
        if more or await self._answered_early():
            return
        raw = self._body
        if self._mode == "whole":
            body = json.loads(raw) if raw else None
            if not isinstance(body, dict):
                return  # vLLM's `null`, or nothing, for a client that has gone away
            if self._forced is not None:
                await self._forced.body(body)
            self._deeds = self._endpoint.rewrite(body, self._answer)
            raw = encode(body)
        await self._send_start(length=len(raw))
        self._done = True
        await self._send({"type": "http.response.body", "body": raw})

    async def _answered_early(self) -> bool:
        """Answer in place of vLLM: the scheduler refused, or the prompt is blocked as an error."""
        unheard = "silent" if self._unheard else None
        error = self._entry.error or ("encoded" if self._mode == "encoded" else unheard)
        if error is not None:
            await self._answer_refused(error)
            return True
        ending = self._early_ending()
        if ending is None or self._status != 200:
            return False
        self._done, self._status = True, 400
        body = error_body(ending.message, status=400, param="prompt", code="content_filter")
        body["error"]["innererror"] = {
            "code": "PolicyViolation",
            "decision_id": self._admitted.decision_id,
        }
        body["pilothouse"] = self._answer.mark
        headers = {**self._headers("block"), "x-should-retry": "false"}
        await send_json(self._send, 400, body, headers)
        return True

    @property
    def _unheard(self) -> bool:
        """Rules that could end this answer were due, and no record of any choice has come."""
        guarded = self._admitted.requirements.holds_start or self._admitted.requirements.ends_output
        return guarded and self._status == 200 and not self._entry.choices

    def _early_ending(self) -> Termination | None:
        for verdict in self._entry.verdicts():
            if verdict.decided_in == "prompt":
                ending = self._settler.ending(verdict)
                if self._endpoint.as_error(ending, self._admitted):
                    return ending
        return None

    async def _answer_refused(self, error: str) -> None:
        """The scheduler's own refusals: no policy verdict, so an honest status."""
        self._done = True
        self._status, text = _REFUSED.get(error, (503, f"the engine refused the request: {error}"))
        headers = {"retry-after": "1"} if self._status == 503 else {}
        body = error_body(text, status=self._status, code=f"pilothouse_{error}")
        await send_json(self._send, self._status, body, headers)

    async def _send_start(self, *, length: int | None) -> None:
        start = dict(self._start or {})
        headers: list[tuple[bytes, bytes]] = list(start["headers"])
        if length is not None:
            headers = [each for each in headers if each[0].lower() != b"content-length"]
            headers.append((b"content-length", str(length).encode()))
        if self._mode != "untouched":
            named = self._headers(self._prompt_deed())
            headers += [(name.encode(), value.encode()) for name, value in named.items()]
        await self._send({**start, "headers": headers})

    def _headers(self, prompt_deed: ChoiceAction) -> dict[str, str]:
        return {
            "x-pilothouse-decision-id": self._admitted.decision_id,
            "x-pilothouse-revision": self._admitted.signed.revision,
            "x-pilothouse-prompt-action": prompt_deed,
        }

    def _prompt_deed(self) -> ChoiceAction:
        deeds: list[Any] = ["allow"]
        for log in self._entry.choices.values():
            if log.verdict is not None and log.verdict.decided_in == "prompt":
                deeds.append(self._settler.ending(log.verdict).action)
            steered = (
                each.phase == "prompt" and each.result == "steered" for each in log.newest.decisions
            )
            if any(steered):
                deeds.append("steer")
        action: ChoiceAction = max(deeds, key=ACTIONS.index)
        return action
