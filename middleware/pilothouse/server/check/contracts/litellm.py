"""POST /beta/litellm_basic_guardrail_api: LiteLLM's generic guardrail.

It sends the texts of a request or of an answer, and for a request that is a chat its messages as
well. A flagged text blocks; nothing is rewritten. Pictures are not scored, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from pilothouse.errors import RequestError
from pilothouse.limits import refuse_count
from pilothouse.policy.endpoint_names import CheckName
from pilothouse.policy.schema import DEFAULT_REFUSAL
from pilothouse.server.check.contracts.base import Asked, CheckContract, Json, Open, read_fields
from pilothouse.server.check.texts import CheckAnswer, CheckInput, CheckRequest, text_input

PARAMETERS = "additional_provider_specific_params"


class Parameters(Open):
    """What an operator of LiteLLM sets for this guardrail, or a client of theirs for a call."""

    model: str | None = Field(default=None, max_length=256)
    policies: tuple[str, ...] | None = Field(default=None, min_length=1)


class Guardrail(Open):
    """The body."""

    input_type: Literal["request", "response"]
    texts: tuple[str, ...] | None = None
    images: tuple[Any, ...] | None = None
    additional_provider_specific_params: Parameters | None = None


class LiteLLM(CheckContract):
    """LiteLLM's."""

    name: ClassVar[CheckName] = "litellm"

    def read(self, asked: Asked) -> CheckRequest:
        """Read a body: each of its texts is scored alone, in the direction of `input_type`."""
        texts = asked.body.get("texts")
        if isinstance(texts, list):
            refuse_count("texts", len(texts), "max_check_texts", asked.limits, "texts")
        guardrail = read_fields(Guardrail, asked.body)
        if guardrail.images:
            raise RequestError(
                "images: pictures are not scored; check those elsewhere", param="images"
            )
        direction: Mapping[str, Literal["prompt", "answer"]] = {
            "request": "prompt",
            "response": "answer",
        }
        inputs: list[CheckInput] = [
            text_input(f"texts.{i}", text, direction[guardrail.input_type])
            for i, text in enumerate(guardrail.texts or ())
        ]
        chosen = guardrail.additional_provider_specific_params or Parameters()
        return CheckRequest(tuple(inputs), chosen.model, chosen.policies)

    def answer(self, answer: CheckAnswer) -> Json:
        """Block where any text is flagged, in the words of the first rule that says so."""
        flagged = [each for each in answer.results if each.flagged]
        if not flagged:
            return {"action": "NONE"}
        return {"action": "BLOCKED", "blocked_reason": flagged[0].message or DEFAULT_REFUSAL}


CONTRACT = LiteLLM()
