"""The `pilothouse` field of a request: closed, and every error says where, got and want."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import ScoreDetail

FIELD = "pilothouse"

Named = Annotated[str, Field(min_length=1, max_length=64)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RequestField(_Closed):
    """What a client may ask of Pilothouse in the body of a request."""

    steer: Annotated[tuple[SteerTerm, ...], Field(max_length=64)] = ()
    probes: Annotated[tuple[Named, ...], Field(max_length=64)] = ()
    scores: ScoreDetail | None = None


def parse_field(raw: Any) -> RequestField:
    """The field of a body; an empty one if there is none.

    Raises:
        RequestError: not an object, an unknown key, or a value of another kind.
    """
    if raw is None:
        return RequestField()
    if not isinstance(raw, dict):
        raise RequestError(
            f"{FIELD}: got {type(raw).__name__}, want an object with any of steer, probes, scores",
            param=FIELD,
        )
    try:
        return RequestField.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join([FIELD, *(str(part) for part in first["loc"])])
        raise RequestError(f"{place}: {_complaint(first)}", param=place) from error


def _complaint(problem: Any) -> str:
    got = repr(problem["input"])
    shown = got if len(got) <= 60 else f"{got[:60]}..."
    if problem["type"] == "extra_forbidden":
        return "unknown field; want any of " + (
            ", ".join(SteerTerm.model_fields)
            if len(problem["loc"]) > 1
            else "steer, probes, scores"
        )
    if problem["type"] == "missing":
        return "missing, and needed"
    return f"got {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
