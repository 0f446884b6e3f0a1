"""POST /api/v1/text/contents: the detector API of FMS, which TrustyAI and LiteLLM speak.

The detector's id, in the header `detector-id` or the query, is a policy's name, or `pilothouse` for
all that apply. `detector_params` may say the direction: `{"direction": "answer"}` scores contents
as what a model said.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pilothouse.errors import RequestError
from pilothouse.limits import refuse_count
from pilothouse.policy.endpoint_names import CheckName
from pilothouse.server.check.contracts.base import Asked, CheckContract, Json, Open, read_fields
from pilothouse.server.check.texts import CheckAnswer, CheckRequest, CheckResult, text_input

NOT_FOUND, INVALID = 404, 422


class Parameters(Open):
    """What a caller may set for a detector."""

    direction: Literal["prompt", "answer"] = "prompt"
    model: str | None = Field(default=None, max_length=256)


class Contents(Open):
    """The body."""

    contents: tuple[str, ...] = Field(min_length=1)
    detector_params: Parameters | None = None


class Detectors(CheckContract):
    """FMS's, TrustyAI's."""

    name: ClassVar[CheckName] = "detectors"

    def read(self, asked: Asked) -> CheckRequest:
        """Read a body: each of its contents is scored alone."""
        detector = asked.headers.get("detector-id") or asked.query.get("detector_id")
        if not detector:
            raise RequestError("header detector-id: missing; want a policy's name, or pilothouse")
        given = asked.body.get("contents")
        if isinstance(given, list):
            refuse_count("contents", len(given), "max_check_texts", asked.limits, "contents")
        contents = read_fields(Contents, asked.body)
        chosen = contents.detector_params or Parameters()
        return CheckRequest(
            tuple(
                text_input(f"contents.{i}", text, chosen.direction)
                for i, text in enumerate(contents.contents)
            ),
            chosen.model,
            self.chosen(detector),
        )

    def answer(self, answer: CheckAnswer) -> list[list[Json]]:
        """List what each content was detected as; a rule that would end it is one detection."""
        return [_detections(each) for each in answer.results]

    def error(self, error: RequestError) -> tuple[int, Json]:
        """Return FMS's error: a detector that is not there is a 404, a wrong body a 422."""
        status = error.status
        if error.param == "policies":
            status = NOT_FOUND
        elif status == 400:
            status = INVALID
        return status, {"code": status, "message": str(error)}


def _detections(result: CheckResult) -> list[Json]:
    text = result.input.messages[-1]["content"] if result.input.messages else ""
    return [
        {
            "start": 0,
            "end": len(text),
            "text": text,
            "detection": each.rule,
            "detection_type": each.policy,
            "score": result.score(each),
        }
        for each in result.ending
    ]


CONTRACT = Detectors()
