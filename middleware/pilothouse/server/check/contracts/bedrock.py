"""POST /guardrail/ID/version/VERSION/apply: the shape of Amazon Bedrock's ApplyGuardrail.

The guardrail's id is a policy's name, or `pilothouse` for all that apply; the version says nothing.
Each text block is scored alone; one that is qualified as the query is the question of an answer,
and grounding sources are not scored. A rule that ends it is a denied topic.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from pilothouse.errors import RequestError
from pilothouse.limits import refuse_count
from pilothouse.policy.endpoint_names import CheckName
from pilothouse.policy.schema import DEFAULT_REFUSAL
from pilothouse.record import Decision
from pilothouse.server.check.contracts.base import Asked, CheckContract, Json, Open, read_fields
from pilothouse.server.check.texts import (
    CheckAnswer,
    CheckInput,
    CheckRequest,
    CheckResult,
    assistant_turn,
    text_input,
    user_turn,
)
from pilothouse.server.response.decisions import ENDING

QUERY, GROUNDING, GUARDED = "query", "grounding_source", "guard_content"
UNITS: Final = (
    "topicPolicyUnits",
    "contentPolicyUnits",
    "wordPolicyUnits",
    "sensitiveInformationPolicyUnits",
    "sensitiveInformationPolicyFreeUnits",
    "contextualGroundingPolicyUnits",
)
"""What Bedrock bills by; all are 0 here."""
KINDS: Final = {
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    503: "ServiceUnavailableException",
}


class Text(Open):
    """A text and what it is."""

    text: str
    qualifiers: tuple[str, ...] = ()


class Block(Open):
    """A block of content."""

    text: Text | None = None
    image: Any = None


class Apply(Open):
    """The body."""

    source: Literal["INPUT", "OUTPUT"]
    content: tuple[Block, ...] = Field(min_length=1)
    outputScope: Literal["INTERVENTIONS", "FULL"] = "INTERVENTIONS"


class Bedrock(CheckContract):
    """Amazon Bedrock's."""

    name: ClassVar[CheckName] = "bedrock"

    def read(self, asked: Asked) -> CheckRequest:
        """Read a body: every text to be guarded, in its direction.

        A query is the question of the answers, and of an input a text like any other. What is
        qualified as to be guarded is scored, whatever else it is.
        """
        given = asked.body.get("content")
        if isinstance(given, list):
            refuse_count("content", len(given), "max_check_texts", asked.limits, "content")
        apply = read_fields(Apply, asked.body)
        question = ""
        guarded: list[tuple[str, str]] = []
        for index, block in enumerate(apply.content):
            if block.text is None:
                raise RequestError(
                    f"content.{index}: want a text; pictures are not scored",
                    param=f"content.{index}",
                )
            place, kinds = f"content.{index}", block.text.qualifiers
            is_question = QUERY in kinds and apply.source == "OUTPUT"
            if is_question:
                question = block.text.text
            if GUARDED in kinds or not (is_question or GROUNDING in kinds):
                guarded.append((place, block.text.text))
        if not guarded:
            raise RequestError("content: want a text to be scored", param="content")
        inputs = (self._input(place, text, question, apply.source) for place, text in guarded)
        return CheckRequest(tuple(inputs), policies=self.chosen(asked.segments["identifier"]))

    def answer(self, answer: CheckAnswer) -> Json:
        """Return Bedrock's answer; what the client would read stands under `outputs`."""
        flagged = [each for each in answer.results if each.flagged]
        size = sum(map(_size, answer.results))
        return {
            "usage": dict.fromkeys(UNITS, 0),
            "action": "GUARDRAIL_INTERVENED" if flagged else "NONE",
            "actionReason": "Guardrail blocked." if flagged else "No action.",
            "outputs": [{"text": each.message or DEFAULT_REFUSAL} for each in flagged[:1]],
            "assessments": [_assessment(each) for each in answer.results],
            "guardrailCoverage": {"textCharacters": {"guarded": size, "total": size}},
        }

    def error(self, error: RequestError) -> tuple[int, Json]:
        """Return an error as Amazon's clients read it."""
        status = 404 if error.param == "policies" else error.status
        return status, {"__type": KINDS.get(status, "ValidationException"), "message": str(error)}

    def _input(self, place: str, text: str, question: str, source: str) -> CheckInput:
        if source == "INPUT":
            return text_input(place, text, "prompt")
        if not question or not text.strip():
            return text_input(place, text, "answer")
        return CheckInput(place, (user_turn(question), assistant_turn(text)), "answer")


def _size(result: CheckResult) -> int:
    return len(result.input.messages[-1]["content"]) if result.input.messages else 0


def _assessment(result: CheckResult) -> Json:
    ending = result.ending
    return {"topicPolicy": {"topics": [_topic(each) for each in ending]}} if ending else {}


def _topic(decision: Decision) -> Json:
    return {
        "name": f"{decision.policy}/{decision.rule}",
        "type": "DENY",
        "action": "BLOCKED",
        "detected": decision.result in ENDING,
    }


CONTRACT = Bedrock()
