"""The `pilothouse` field of a request: closed, and every error says where, got and want."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pilothouse.errors import RequestError
from pilothouse.limits import RequestLimits, refuse_count
from pilothouse.server.auth import Caller
from pilothouse.term import SteerTerm
from pilothouse.types import ScoreDetail

FIELD = "pilothouse"

Named = Annotated[str, Field(min_length=1, max_length=64)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RequestField(_Closed):
    """What a client may ask of Pilothouse in the body of a request."""

    steer: tuple[SteerTerm, ...] = ()
    probes: tuple[Named, ...] = ()
    scores: ScoreDetail | None = None


_GRANT_STEERING = (
    "this server does not let clients steer; pick a profile as the model name, or ask the operator "
    "for auth.client_steering"
)
_GRANT_SCORES = (
    "this server does not show scores to clients; ask the operator for auth.client_scores"
)


def parse_field(raw: Any, caller: Caller, limits: RequestLimits) -> RequestField:
    """The field of a body; an empty one if there is none.

    What needs a grant is refused for who has none before it is looked into.

    Raises:
        RequestError: not an object, an unknown key, no grant (403), more than `limits` allow, or a
            value of another kind.
    """
    if raw is None:
        return RequestField()
    if not isinstance(raw, dict):
        raise RequestError(
            f"{FIELD}: got {type(raw).__name__}, want an object with any of steer, probes, scores",
            param=FIELD,
        )
    _refuse_ungranted(raw, caller)
    _refuse_many(raw, limits)
    try:
        return RequestField.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join([FIELD, *(str(part) for part in first["loc"])])
        raise RequestError(f"{place}: {_complaint(first)}", param=place) from error


def _refuse_ungranted(raw: Mapping[str, Any], caller: Caller) -> None:
    shows = (raw.get("scores") not in (None, "none"), "scores"), (bool(raw.get("probes")), "probes")
    if raw.get("steer") and not caller.may_steer:
        raise RequestError(f"{FIELD}.steer: {_GRANT_STEERING}", param="steer", status=403)
    for asked, name in shows:
        if asked and not caller.may_see_scores:
            raise RequestError(f"{FIELD}.{name}: {_GRANT_SCORES}", param=name, status=403)


def _refuse_many(raw: Mapping[str, Any], limits: RequestLimits) -> None:
    steer = raw.get("steer")
    terms = steer if isinstance(steer, list | tuple) else ()
    refuse_count(f"{FIELD}.steer", len(terms), "max_terms", limits, f"{FIELD}.steer")
    probes = raw.get("probes")
    num_probes = len(probes) if isinstance(probes, list | tuple) else 0
    refuse_count(f"{FIELD}.probes", num_probes, "max_probes", limits, f"{FIELD}.probes")
    unknown = raw.keys() - RequestField.model_fields.keys()
    if unknown:
        name = ascii(min(unknown))[1:-1][:60]
        raise RequestError(
            f"{FIELD}.{name}: unknown field; want any of {', '.join(RequestField.model_fields)}",
            param=f"{FIELD}.{name}",
        )


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
