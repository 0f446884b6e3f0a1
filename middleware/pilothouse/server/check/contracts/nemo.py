"""POST /v1/guardrail/checks: the checks of NVIDIA's NeMo Guardrails.

A conversation's last question is scored as a prompt, and an assistant's message behind it as an
answer to it: input rails and output rails. `guardrails.config_id` is a policy's name, or
`pilothouse` for all that apply. `model` counts where it is one that is served here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pilothouse.errors import RequestError
from pilothouse.policy.endpoint_names import CheckName
from pilothouse.server.check.contracts.base import Asked, CheckContract, Json, Open, read_fields
from pilothouse.server.check.contracts.native import UNSCORED_CALLS, refuse_turns
from pilothouse.server.check.texts import (
    CheckAnswer,
    CheckInput,
    CheckRequest,
    Message,
    assistant_turn,
    text_input,
)
from pilothouse.server.response.decisions import ENDING

ASSISTANT = "assistant"
INVALID = 422


class Part(Open):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Turn(Open):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | None = None
    tool_calls: tuple[Any, ...] | None = None

    @property
    def text(self) -> str:
        """All that it says."""
        if isinstance(self.content, tuple):
            return "".join(each.text for each in self.content)
        return self.content or ""

    def message(self) -> Message:
        """Return it as vLLM reads it."""
        return {"role": self.role, "content": self.text}


class Rails(Open):
    """Which rails are asked for."""

    config_id: str | None = None
    config_ids: tuple[str, ...] | None = None
    config: Any = None

    @model_validator(mode="after")
    def _is_of_the_server(self) -> Rails:
        if self.config is not None:
            raise ValueError("config: policies are the server's own; name one under config_id")
        return self


class Checks(Open):
    """The body."""

    messages: tuple[Turn, ...] = Field(min_length=1)
    model: str | None = None
    guardrails: Rails = Rails()


class Nemo(CheckContract):
    """NeMo Guardrails'."""

    name: ClassVar[CheckName] = "nemo"

    def read(self, asked: Asked) -> CheckRequest:
        """Read a body: a question, an answer, or both."""
        checks = read_fields(Checks, asked.body)
        refuse_turns([len(checks.messages)], asked)
        rails = checks.guardrails
        named = [each for each in (rails.config_id, *(rails.config_ids or ())) if each is not None]
        chosen = [self.chosen(each) for each in named]
        policies = None
        if chosen and None not in chosen:
            policies = tuple(name for each in chosen for name in each or ())
        return CheckRequest(
            tuple(_inputs(checks.messages)), asked.known_model(checks.model), policies
        )

    def answer(self, answer: CheckAnswer) -> Json:
        """Return NeMo's answer: a rail for each rule that the caller may know of."""
        rails = {
            f"{each.policy}/{each.rule}": each.result in ENDING
            for result in answer.results
            for each in result.decisions
        }
        flagged = any(each.flagged for each in answer.results)
        return {
            "status": "blocked" if flagged else "success",
            "rails_status": {
                name: {"status": "blocked" if is_ending else "success"}
                for name, is_ending in rails.items()
            },
            "guardrails_data": None,
        }

    def error(self, error: RequestError) -> tuple[int, Json]:
        """Return an error as NeMo's server does."""
        status = INVALID if error.status == 400 else error.status
        return (404 if error.param == "policies" else status), {"detail": str(error)}


def _inputs(turns: tuple[Turn, ...]) -> list[CheckInput]:
    said = [each.message() for each in turns]
    if turns[-1].role != ASSISTANT:
        return [CheckInput("messages", tuple(said), "prompt")]
    if turns[-1].tool_calls:
        raise RequestError(f"messages: {UNSCORED_CALLS}", param="messages")
    answer, before = turns[-1].text, said[:-1]
    if not before:
        return [text_input("messages", answer, "answer")]
    found = []
    asked = max((n for n, each in enumerate(turns) if each.role != ASSISTANT), default=-1) + 1
    if asked:
        found.append(CheckInput("messages", tuple(said[:asked]), "prompt"))
    if answer.strip():
        found.append(CheckInput("messages", (*before, assistant_turn(answer)), "answer"))
    return found


CONTRACT = Nemo()
