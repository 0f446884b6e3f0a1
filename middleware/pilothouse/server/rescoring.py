"""Text that no model chose is scored again, as a user's turn, by the rules that end a prompt.

A readout is calibrated where an assistant's turn opens behind what a user said. That is where the
client's own text is brought: one request of a single token, under the same policies, sent to the
same engine through the same app. It is no request of the client's and is not counted as one; the
rules that it evaluates are counted as any.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import ASGIApp, Message, Scope
from vllm.renderers.inputs.preprocess import prompt_to_seq

from pilothouse.record import Verdict
from pilothouse.server.admission import Admission, Admitted
from pilothouse.server.answer import encode
from pilothouse.server.client_text import (
    choice_text,
    forced_texts,
    is_constrained,
    supplied_texts,
)
from pilothouse.server.family import Family
from pilothouse.server.ledger import Entry, Ledger
from pilothouse.server.sse import payload
from pilothouse.types import Phase

logger = logging.getLogger(__name__)

CHAT_PATH = "/v1/chat/completions"


class Rescorer:
    """Scores texts under the policies of one admitted request."""

    def __init__(
        self, app: ASGIApp, scope: Scope, admission: Admission, ledger: Ledger, admitted: Admitted
    ) -> None:
        self._app = app
        self._scope = scope
        self._admission = admission
        self._ledger = ledger
        self._admitted = admitted

    async def verdict(self, texts: Iterable[str], phase: Phase) -> Verdict | None:
        """The first verdict that a rule of the prompt comes to on any of the texts.

        A text that cannot be scored is what the rule says of errors.
        """
        for text in dict.fromkeys(texts):
            decision_id, body = self._admission.as_user_turn(self._admitted, text)
            entry = self._ledger.open(decision_id)
            try:
                status, _ = await call(self._app, self._scope, CHAT_PATH, body)
            finally:
                self._ledger.close(decision_id)
            found = next(entry.verdicts(), None)
            if found is None and (status != 200 or not entry.choices):
                logger.warning("text of a client could not be scored: status %d", status)
                found = self._admission.unscored_verdict(self._admitted)
            if found is not None:
                return Verdict(found.action, found.policy, found.rule, phase, found.result)
        return None

    async def texts_of(self, prompts: Sequence[Any]) -> list[str]:
        """Prompts of a completion as text; tokens are put into words by vLLM."""
        texts = []
        for prompt in prompts:
            if isinstance(prompt, str):
                texts.append(prompt)
                continue
            _, answer = await call(self._app, self._scope, "/detokenize", {"tokens": list(prompt)})
            told = answer.get("prompt") if isinstance(answer, dict) else None
            texts.append(told if isinstance(told, str) else "")
        return texts


class ForcedAnswer:
    """Scores each choice of a constrained answer when it ends, before anything of it leaves."""

    def __init__(
        self, rescorer: Rescorer, family: Family, admitted: Admitted, entry: Entry
    ) -> None:
        self._rescorer = rescorer
        self._family = family
        self._admitted = admitted
        self._entry = entry
        self._said: dict[int, str] = {}

    async def event(self, event: bytes) -> None:
        """Take in one event of a stream, ahead of what shapes it."""
        data = payload(event)
        if data is None or data == b"[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError:
            return
        await self.body(chunk)

    async def body(self, body: dict[str, Any]) -> None:
        """Take in the choices of a body or of a chunk."""
        for choice in body.get("choices") or ():
            index = choice["index"]
            said = self._said[index] = self._said.get(index, "") + choice_text(choice)
            if choice.get("finish_reason") is not None:
                texts = forced_texts(said, self._admitted.fields)
                verdict = await self._rescorer.verdict(texts, "final")
                if verdict is not None:
                    self._entry.impose(self._family.key(index, self._admitted), verdict)


@dataclass(frozen=True, slots=True)
class Rescored:
    """A request whose own text has been scored, and what is still to be done with its answer."""

    admitted: Admitted
    forced: ForcedAnswer | None


async def rescored(
    rescorer: Rescorer, body: dict[str, Any], family: Family, admitted: Admitted, entry: Entry
) -> Rescored:
    """Score what the client wrote of an answer, and make ready to score what it will force.

    It is for requests that an enforced rule can end at the prompt. Where one does by such a text,
    the request still goes to the engine, for the shape of the answer and its usage, but for as
    little as there is; `entry` has the verdict, and nothing of the answer leaves.
    """
    fields = admitted.fields
    prompts: list[str] = []
    if family.endpoint == "completions":
        prompts = await rescorer.texts_of(prompt_to_seq(fields.vllm.prompt or []))
    supplied = supplied_texts(fields, family.endpoint, prompts, opening=None)
    for prompt, texts in supplied.items():
        verdict = await rescorer.verdict(texts, "prompt")
        if verdict is not None:
            entry.prompt_verdicts[prompt] = verdict
    forced = ForcedAnswer(rescorer, family, admitted, entry) if is_constrained(fields) else None
    if forced is None and not entry.prompt_verdicts:
        return Rescored(admitted, None)
    if len(entry.prompt_verdicts) == admitted.num_prompts:
        _shorten(body)
    held = replace(admitted, exposure=replace(admitted.exposure, buffers=True))
    return Rescored(held, forced)


def _shorten(body: dict[str, Any]) -> None:
    body.pop("min_tokens", None)
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None or name == "max_tokens":
            body[name] = 1


async def call(app: ASGIApp, scope: Scope, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """One request of our own to the app inside the gate: its status, and its JSON.

    It shows the credentials that the client showed, which have been found good.
    """
    raw = encode(body)
    kept = (b"authorization", b"host", b"x-api-key")
    headers = [each for each in scope["headers"] if each[0] in kept]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
    full = scope.get("root_path", "") + path
    own = {
        **scope,
        "path": full,
        "raw_path": full.encode(),
        "headers": headers,
        "query_string": b"",
    }
    given = False
    status, pieces = 500, [b""]

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            pieces.append(message.get("body", b""))

    await app(own, receive, send)
    try:
        return status, json.loads(b"".join(pieces))
    except ValueError:
        return status, None
