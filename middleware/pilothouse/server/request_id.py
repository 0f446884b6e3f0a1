"""A client's request id is checked, because vLLM writes it into its log and its answers as it is.

It comes as `request_id` of a body or as the header `x-request-id`, which vLLM prefers. vLLM takes
any string; one that ends a line, moves a terminal's cursor or fills a disk is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Scope

from pilothouse.errors import RequestError

HEADER: Final = "x-request-id"
FIELD: Final = "request_id"
MOST_CHARACTERS: Final = 256


def refuse_request_id_header(scope: Scope) -> None:
    """Check the header of a request to any route.

    Raises:
        RequestError: it cannot stand in a log.
    """
    for value in Headers(scope=scope).getlist(HEADER):
        _refuse(value, HEADER)


def refuse_request_id_field(body: Mapping[str, Any]) -> None:
    """Check the field of a body; what is no text is vLLM's to refuse.

    Raises:
        RequestError: it cannot stand in a log.
    """
    value = body.get(FIELD)
    if isinstance(value, str):
        _refuse(value, FIELD)


def _refuse(value: str, place: str) -> None:
    if len(value) > MOST_CHARACTERS:
        raise RequestError(
            f"{place}: got {len(value)} characters, want at most {MOST_CHARACTERS}", param=place
        )
    wrong = next((each for each in value if not each.isprintable()), None)
    if wrong is not None:
        raise RequestError(
            f"{place}: got the character {wrong!a}, want printable ones: the id is written "
            "into logs and answers",
            param=place,
        )
