"""What a contract of the check is: how it reads a body, and how it writes the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import Headers, QueryParams

from pilothouse.errors import RequestError
from pilothouse.limits import ServedLimits
from pilothouse.policy.endpoint_names import CHECK_PATHS, CheckName
from pilothouse.server.answers import request_error_body
from pilothouse.server.check.texts import CheckAnswer, CheckRequest

Json = dict[str, Any]
ALL_POLICIES: Final = "pilothouse"
"""Where a contract asks for the name of one guardrail: all policies that apply."""
Fields = TypeVar("Fields", bound=BaseModel)


class Closed(BaseModel):
    """A body, or a part of one, in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Open(BaseModel):
    """A body, or a part of one, of a contract that others extend: what is not known is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it came."""

    body: Json
    segments: Mapping[str, str]
    """What stands in the path for each `{name}` of the contract's."""
    headers: Headers
    query: QueryParams
    limits: ServedLimits
    models: frozenset[str]
    """Served names, profiles and adapters."""
    may_see_scores: bool

    def known_model(self, name: str | None) -> str | None:
        """Return a model's name if it is one of ours, for contracts where it need not be."""
        return name if name in self.models else None


class CheckContract(ABC):
    """One shape in which a check is asked for."""

    name: ClassVar[CheckName]

    def chosen(self, name: str | None) -> tuple[str, ...] | None:
        """Return the policies that a contract's one name stands for; None for all that apply."""
        return None if name in (None, "", ALL_POLICIES) else (str(name),)

    @property
    def path(self) -> str:
        """The route, without the root path."""
        return CHECK_PATHS[self.name]

    @abstractmethod
    def read(self, asked: Asked) -> CheckRequest:
        """Read a body within all bounds.

        Raises:
            RequestError: it is not as the contract says, or asks for more than a bound allows.
        """

    @abstractmethod
    def answer(self, answer: CheckAnswer) -> Any:
        """Return the JSON of an answer."""

    def error(self, error: RequestError) -> tuple[int, Json]:
        """Return status and JSON of a refusal."""
        return error.status, request_error_body(error)


def read_fields(model: type[Fields], body: Json) -> Fields:
    """Return a body as a contract's fields.

    Raises:
        RequestError: it does not fit; the message says where, what was got and what is wrong.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _problem(error) from error


def _problem(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "body"
    shown = ascii(place)[1:-1][:100]
    if first["type"] == "extra_forbidden":
        return RequestError(f"{shown}: unknown field", param=shown)
    if first["type"] == "missing":
        return RequestError(f"{shown}: missing, and needed", param=shown)
    got = ascii(first["input"])
    got = got if len(got) <= 60 else f"{got[:60]}..."
    wrong = first["msg"].removeprefix("Value error, ")
    return RequestError(f"{shown}: got {got}: {wrong[0].lower()}{wrong[1:]}", param=shown)
