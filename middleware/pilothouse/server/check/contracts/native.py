"""POST /pilothouse/v1/check: our own shape, which says all that a check concludes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from pilothouse.errors import RequestError
from pilothouse.limits import refuse_count
from pilothouse.policy.endpoint_names import CheckName
from pilothouse.record import Decision
from pilothouse.server.check.contracts.base import Asked, CheckContract, Closed, Json, read_fields
from pilothouse.server.check.texts import (
    FIRED,
    CheckAnswer,
    CheckInput,
    CheckRequest,
    CheckResult,
    Message,
    assistant_turn,
    user_turn,
)

Name = Annotated[str, Field(min_length=1, max_length=256)]
ASSISTANT = "assistant"


UNSCORED_CALLS: Final = (
    "the last of them, the answer, has tool_calls, which are not scored: give what they say as text"
)


class Part(Closed):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Function(Closed):
    """What a tool was called with."""

    name: str
    arguments: str


class ToolCall(Closed):
    """A call that an assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class Turn(Closed):
    """A message, as a chat has it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All that it says."""
        if not self.content:
            return self.refusal or ""
        if isinstance(self.content, str):
            return self.content
        return "".join(each.text for each in self.content)

    def message(self) -> Message:
        """Return it as vLLM reads it; a refusal is said as text."""
        shown: Message = self.model_dump(exclude_none=True, exclude={"refusal"})
        if self.role == ASSISTANT and not self.content and self.refusal:
            shown["content"] = self.refusal
        return shown


class Item(Closed):
    """One input: a user's text or a conversation, and an answer to it."""

    text: str | None = None
    messages: tuple[Turn, ...] | None = Field(default=None, min_length=1)
    answer: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.text is not None and self.messages is not None:
            raise ValueError("want text or messages, not both")
        if self.text is None and self.messages is None and self.answer is None:
            raise ValueError("want any of text, messages, answer")
        if self.answer is not None and not self.answer.strip():
            raise ValueError("answer: want some text")
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == ASSISTANT:
            if self.answer is not None:
                raise ValueError("want one answer: under answer, or as the last of messages")
            if not last.text.strip():
                raise ValueError("messages: want some text in the last of them, the answer")
            if last.tool_calls:
                raise ValueError(f"messages: {UNSCORED_CALLS}")
        return self

    def read(self, place: str) -> CheckInput:
        """Return it as a conversation in its direction."""
        turns = [each.message() for each in self.messages or ()]
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == ASSISTANT:
            return CheckInput(place, (*turns[:-1], assistant_turn(last.text)), "answer")
        if self.messages is None:
            turns = [user_turn(self.text or "")]
        if self.answer is None:
            return CheckInput(place, tuple(turns), "prompt")
        return CheckInput(place, (*turns, assistant_turn(self.answer)), "answer")


class Check(Closed):
    """The body."""

    input: tuple[Item, ...] = Field(min_length=1)
    model: Name | None = None
    policies: tuple[Name, ...] | None = Field(default=None, min_length=1)
    scores: Literal["none", "summary"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _texts(cls, body: Any) -> Any:
        """A text stands for an item that has it, and one item for a list of it."""
        if not isinstance(body, dict) or "input" not in body:
            return body
        given = body["input"]
        items = given if isinstance(given, list) else [given]
        return {**body, "input": [{"text": e} if isinstance(e, str) else e for e in items]}


class Native(CheckContract):
    """Our own."""

    name: ClassVar[CheckName] = "check"

    def read(self, asked: Asked) -> CheckRequest:
        """Read a body; scores that are asked for need the grant."""
        given, limits = asked.body.get("input"), asked.limits
        if isinstance(given, list):
            refuse_count("input", len(given), "max_check_texts", limits, "input")
        check = read_fields(Check, asked.body)
        refuse_turns([len(each.messages or ()) for each in check.input], asked)
        turns = [turn for each in check.input for turn in each.messages or ()]
        parts = sum(len(turn.content) for turn in turns if isinstance(turn.content, tuple))
        refuse_count("input.messages.content", parts, "max_content_parts", limits, "input")
        if check.scores == "summary" and not asked.may_see_scores:
            raise RequestError(
                "scores: this server does not show scores to clients; ask the operator for "
                "auth.client_scores",
                param="scores",
                status=403,
            )
        return CheckRequest(
            inputs=tuple(each.read(f"input.{i}") for i, each in enumerate(check.input)),
            model=check.model,
            policies=check.policies,
            wants_scores=check.scores != "none",
        )

    def answer(self, answer: CheckAnswer) -> Json:
        """Say all that the caller may know."""
        return {
            "object": "pilothouse.check",
            "id": answer.check_id,
            "model": answer.model,
            "revision": answer.revision,
            "flagged": any(each.flagged for each in answer.results),
            "policies": list(answer.policies),
            "results": [_result(index, each, answer) for index, each in enumerate(answer.results)],
            "usage": {"prompt_tokens": sum(each.num_tokens for each in answer.results)},
        }


def refuse_turns(counts: list[int], asked: Asked) -> None:
    """Bound the messages of all conversations together.

    Raises:
        RequestError: more than `limits.max_messages`.
    """
    refuse_count("input.messages", sum(counts), "max_messages", asked.limits, "input")


def _result(index: int, result: CheckResult, answer: CheckAnswer) -> Json:
    shown: Json = {
        "index": index,
        "direction": result.input.direction,
        "flagged": result.flagged,
        "action": result.action,
        "message": result.message,
        "decisions": [_decision(each, answer) for each in _told(result, answer)],
    }
    if result.scores is not None:
        shown["scores"] = dict(result.scores)
    return shown


def _told(result: CheckResult, answer: CheckAnswer) -> Iterator[Decision]:
    """Rules that fired; with the grant also those that had no score to go by."""
    for each in result.decisions:
        if each.result in FIRED or (answer.shows_results and each.result != "allowed"):
            yield each


def _decision(decision: Decision, answer: CheckAnswer) -> Json:
    shown: Json = {
        "policy": decision.policy,
        "rule": decision.rule,
        "phase": decision.phase,
        "mode": decision.mode,
        "action": decision.action,
    }
    if answer.shows_results:
        shown["result"] = decision.result
    return shown


CONTRACT = Native()
