"""POST /v1/moderations, as OpenAI's clients ask it: each rule of a policy is a category.

A category's name is `policy/rule`. Its score is the largest value among the signals that the rule
reads where the caller may see scores, else 1 or 0. `model` names a profile or a served model of
ours; OpenAI's own names of moderation models stand for the served one.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from pilothouse.errors import RequestError
from pilothouse.limits import refuse_count
from pilothouse.policy.endpoint_names import CheckName
from pilothouse.server.check.contracts.base import (
    Asked,
    CheckContract,
    Closed,
    Json,
    Open,
    read_fields,
)
from pilothouse.server.check.texts import (
    CheckAnswer,
    CheckRequest,
    CheckResult,
    text_input,
)
from pilothouse.server.response.decisions import ENDING

OPENAI_MODELS = ("omni-moderation-", "text-moderation-")


class Part(Closed):
    """A text among inputs; pictures are not scored, and are refused."""

    type: Literal["text"]
    text: str


class Moderation(Open):
    """The body."""

    input: tuple[str | Part, ...] = Field(min_length=1)
    model: Annotated[str, Field(max_length=256)] | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


class Moderations(CheckContract):
    """OpenAI's."""

    name: ClassVar[CheckName] = "moderations"

    def read(self, asked: Asked) -> CheckRequest:
        """Read a body; texts in a list are scored one by one, parts of one input together."""
        given = asked.body.get("input")
        if isinstance(given, list):
            refuse_count("input", len(given), "max_check_texts", asked.limits, "input")
        moderation = read_fields(Moderation, asked.body)
        parts = [each.text for each in moderation.input if isinstance(each, Part)]
        texts = [each for each in moderation.input if isinstance(each, str)]
        if parts and texts:
            raise RequestError(
                "input: got texts and parts, want a list of either: a result stands for a text, or "
                "for all parts together",
                param="input",
            )
        if parts:
            texts.append("\n".join(parts))
        model = moderation.model
        if model is not None and model.startswith(OPENAI_MODELS) and model not in asked.models:
            model = None
        inputs = (text_input(f"input.{i}", text, "prompt") for i, text in enumerate(texts))
        return CheckRequest(tuple(inputs), model=model)

    def answer(self, answer: CheckAnswer) -> Json:
        """Return OpenAI's answer, with a category for each rule that the caller may know of."""
        return {
            "id": f"modr-{answer.check_id.removeprefix('check-')}",
            "model": answer.model,
            "results": [_result(each) for each in answer.results],
        }


def _result(result: CheckResult) -> Json:
    categories = {f"{each.policy}/{each.rule}": each for each in result.decisions}
    return {
        "flagged": result.flagged,
        "categories": {name: each.result in ENDING for name, each in categories.items()},
        "category_scores": {name: result.score(each) for name, each in categories.items()},
        "category_applied_input_types": {name: ["text"] for name in categories},
    }


CONTRACT = Moderations()
