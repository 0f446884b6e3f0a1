"""Text that no model chose is scored again, as a user's turn, by the rules that end a prompt.

A readout is calibrated where an assistant's turn opens behind what a user said. That is where the
client's own text is brought: one request of a single token, under the same policies, sent to the
same engine through the same app. It is no request of the client's and is not counted as one; the
rules that it evaluates are counted as any.

Such text is an answer that the client began, a prompt that is cut off or opens no turn at all, and
whatever a grammar, a forced tool, a token list or a bias made the model "say".
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from pilothouse.record import Decision
from pilothouse.server.admission import Admission, Admitted
from pilothouse.server.answers import encode, payload
from pilothouse.server.endpoints.base import Endpoint
from pilothouse.server.request_schema import RequestFields, is_constrained
from pilothouse.server.response.decisions import DecisionStore, RequestDecisions
from pilothouse.signed_request import AppliedPolicy
from pilothouse.types import Phase

logger = logging.getLogger(__name__)

CHAT_PATH = "/v1/chat/completions"
BATCH: Final = 4
"""Texts of one answer that are scored side by side."""

MAX_PREFIXES: Final = 48
MAX_WORDS: Final = 12
"""A stretch without the end of a sentence counts as ended after so many words."""

MAX_LETTERS: Final = 16
"""What is written without spaces counts as words of so many letters."""

_FULL_STOPS: Final = "\u3002\uff01\uff1f\uff1b"
"""Those of scripts that leave no space behind them."""
_WORD: Final = re.compile(
    rf"(?:[^\s{_FULL_STOPS}]{{1,{MAX_LETTERS}}}[{_FULL_STOPS}]*|[{_FULL_STOPS}]+)\s*"
)
_ENDS: Final = re.compile(rf"(?:[.?!;][\"'}}\]),]*|[{_FULL_STOPS}])\s*$|\n\s*$")

_NO_TEXT = frozenset({"role", "type", "id", "image_url", "audio_url", "video_url", "input_audio"})
"""Keys of a message, or of a part of one, whose values a template does not render as words."""


class Rescorer:
    """Scores texts under the policies of one admitted request."""

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        admission: Admission,
        decision_store: DecisionStore,
        admitted: Admitted,
    ) -> None:
        self._app = app
        self._scope = scope
        self._admission = admission
        self._decision_store = decision_store
        self.admitted = admitted

    async def verdict(
        self,
        texts: Iterable[str],
        phase: Phase,
        policies: tuple[AppliedPolicy, ...] | None = None,
    ) -> Decision | None:
        """The first verdict that a rule of the prompt comes to on any of the texts.

        A text that cannot be scored is what the rule says of errors.

        Args:
            texts: what the client wrote.
            phase: where in the request the verdict falls, for its record.
            policies: those that count; by default all that hold for the request.
        """
        judging = self.admitted.requirements.applied if policies is None else policies
        waiting = iter(texts)
        while batch := tuple(islice(waiting, BATCH)):
            found = await asyncio.gather(*(self._scored(each, judging) for each in batch))
            verdict = next((each for each in found if each is not None), None)
            if verdict is not None:
                return replace(verdict, phase=phase)
        return None

    async def prompt_verdicts(self, prompts: Sequence[Any]) -> list[Decision | None]:
        """The same for each prompt of a completion, in turn.

        As many are scored side by side as fill the context once, so that requests of others come
        between them.
        """
        found: list[Decision | None] = []
        batch: list[Any] = []
        for prompt in prompts:
            if batch and sum(map(len, batch)) + len(prompt) > self._admission.max_model_len:
                found += await asyncio.gather(*map(self._prompt_verdict, batch))
                batch = []
            batch.append(prompt)
        return found + await asyncio.gather(*map(self._prompt_verdict, batch))

    async def _prompt_verdict(self, prompt: Any) -> Decision | None:
        """VLLM puts tokens into words."""
        if await self._is_too_long(prompt):
            return self._admission.unscored_verdict(self.admitted.requirements.applied)
        text = prompt
        if not isinstance(prompt, str):
            status, answer = await call(
                self._app, self._scope, "/detokenize", {"tokens": list(prompt)}
            )
            text = answer.get("prompt") if isinstance(answer, dict) else None
            if not isinstance(text, str):
                return self._unscored(status, self.admitted.requirements.applied)
        return await self.verdict((text,) if text.strip() else (), "prompt")

    async def _is_too_long(self, prompt: Any) -> bool:
        """Whether vLLM will refuse the prompt for its length, so that it is read in vain."""
        if self.admitted.fields.truncated:
            return False
        context, size = self._admission.max_model_len, len(prompt)
        if isinstance(prompt, str) and size > context:
            _, answer = await call(self._app, self._scope, "/tokenize", {"prompt": prompt})
            size = answer.get("count", 0) if isinstance(answer, dict) else 0
        return size > context

    async def _scored(self, text: str, policies: tuple[AppliedPolicy, ...]) -> Decision | None:
        decision_id, body = self._admission.as_user_turn(self.admitted, text, policies)
        entry = self._decision_store.open(decision_id)
        try:
            status, _ = await call(self._app, self._scope, CHAT_PATH, body)
        finally:
            self._decision_store.close(decision_id)
        found = next(entry.verdicts(), None)
        if found is None and (status != 200 or not entry.choices):
            return self._unscored(status, policies)
        return found

    def _unscored(self, status: int, policies: tuple[AppliedPolicy, ...]) -> Decision | None:
        logger.warning("a text could not be scored as a user's turn: status %d", status)
        return self._admission.unscored_verdict(policies)


class ForcedAnswer:
    """Scores each choice of an answer when it ends, before anything of it leaves.

    Args:
        policies: those that judge it: all where the client constrained it, else those that score
            answers.
        texts: what of an answer is scored, given what was said before it.
    """

    def __init__(
        self,
        rescorer: Rescorer,
        endpoint: Endpoint,
        entry: RequestDecisions,
        policies: tuple[AppliedPolicy, ...],
        texts: Callable[[str, str], tuple[str, ...]],
    ) -> None:
        self._policies = policies
        self._texts = texts
        self._rescorer = rescorer
        self._endpoint = endpoint
        self._entry = entry
        self._before = last_user_text(rescorer.admitted.fields.messages)
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
        """Take in what a body or a chunk says."""
        for each in self._endpoint.spoken(body):
            said = self._said[each.index] = self._said.get(each.index, "") + each.text
            if each.ended:
                texts = self._texts(said, self._before)
                verdict = await self._rescorer.verdict(texts, "final", self._policies)
                if verdict is not None:
                    key = self._endpoint.key(each.index, self._rescorer.admitted)
                    self._entry.impose(key, verdict)


@dataclass(frozen=True, slots=True)
class Rescored:
    """A request whose own text has been scored, and what is still to be done with its answer."""

    admitted: Admitted
    forced: ForcedAnswer | None
    blocked: bool
    """No prompt of it may be answered."""


async def rescored(
    rescorer: Rescorer, endpoint: Endpoint, entry: RequestDecisions, *, pins_tools: bool = False
) -> Rescored:
    """Score what the client wrote of an answer, and make ready to score what it will force.

    It is for requests that an enforced rule can end at the prompt. Where one does by such a text,
    `entry` has the verdict, and nothing of the answer leaves.
    """
    admitted = rescorer.admitted
    fields = admitted.fields
    if fields.messages is not None:
        found = [await rescorer.verdict(supplied_text(fields), "prompt")]
    else:
        found = await rescorer.prompt_verdicts(fields.prompts)
    for prompt, verdict in enumerate(found):
        if verdict is not None:
            entry.prompt_verdicts[prompt] = verdict
    requirements = admitted.requirements
    constrained = is_constrained(fields, pins_tools=pins_tools)
    judging = requirements.applied if constrained else requirements.scores_answers
    texts = forced_texts if constrained else answer_texts
    forced = ForcedAnswer(rescorer, endpoint, entry, judging, texts) if judging else None
    blocked = len(entry.prompt_verdicts) == admitted.num_prompts
    if forced is not None or entry.prompt_verdicts:
        # Whole choices wait for their verdict, as under a final rule.
        admitted = replace(admitted, requirements=replace(requirements, buffers=True))
    return Rescored(admitted, forced, blocked)


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


def prefixes(text: str) -> tuple[str, ...]:
    """The text up to each place where it could have ended, but for the whole of it.

    There are at most `MAX_PREFIXES`; of more, as many are taken at even distances.
    """
    ends: list[int] = []
    num_words = 0
    for word in _WORD.finditer(text):
        num_words += 1
        if _ENDS.search(word.group()) or num_words == MAX_WORDS:
            ends.append(word.end())
            num_words = 0
    inner = [end for end in ends if text[end:].strip()]
    if len(inner) > MAX_PREFIXES:
        inner = [inner[index * len(inner) // MAX_PREFIXES] for index in range(MAX_PREFIXES)]
    return tuple(text[:end].rstrip() for end in inner)


def supplied_text(fields: RequestFields) -> tuple[str, ...]:
    """Return what of a conversation is to be scored as a user's turn before it may go on."""
    messages = fields.messages or ()
    texts = [message_text(each) for each in messages]
    if fields.roles and fields.roles[-1] == "assistant":
        return _alone_and_together(texts[-1], last_user_text(messages))
    if fields.truncated or not fields.add_generation_prompt:
        return _alone_and_together(last_user_text(messages), " ".join(texts[:-1]))
    return ()


def forced_texts(answer: str, before: str) -> tuple[str, ...]:
    """Return what is to be scored as a user's turn of an answer that the client constrained.

    Where words of the client's end and the model's begin is not known, so the answer is scored at
    each place where it could have ended.

    Args:
        answer: vLLM's, whole.
        before: what was said last by anyone but the assistant.
    """
    ended = (f"{before} {each}" for each in prefixes(answer))
    return (*_alone_and_together(answer, before), *ended)


def answer_texts(answer: str, before: str) -> tuple[str, ...]:
    """Return what is to be scored of an answer whose words the model chose."""
    return _alone_and_together(answer, before)


def _alone_and_together(text: str, before: str) -> tuple[str, ...]:
    """A sentence may be cut in two, one half on each side of the border."""
    together = f"{before} {text}"
    return tuple(each for each in dict.fromkeys((text, together)) if each.strip())


def last_user_text(messages: Sequence[Any] | None) -> str:
    """Return what was said last by anyone but the assistant; nothing where there are no turns."""
    for message in reversed(messages or ()):
        if message.get("role") != "assistant":
            return message_text(message)
    return ""


def message_text(message: Any) -> str:
    """Every text of a message that a template may render: of parts, reasoning, calls, refusals."""
    return " ".join(_texts(message))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _NO_TEXT:
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
