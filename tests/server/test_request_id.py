"""A request id that vLLM would write into its log is refused where it could forge a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.errors import RequestError
from pilothouse.server.refused_fields import (
    MOST_CHARACTERS,
    refuse_request_id_field,
    refuse_request_id_header,
)

FORGED = ["a\nINFO forged", "a\rb", "\x1b[2J", "\x00", "\x7f", "\x85", "\u2028", "\u202e", "\ud800"]


@pytest.mark.parametrize("value", FORGED)
def test_an_id_with_unprintable_characters_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match="printable") as caught:
        refuse_request_id_field({"request_id": value})
    assert (caught.value.param, caught.value.status) == ("request_id", 400)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["", "a1-b2", "order 7 of Größe", "x" * MOST_CHARACTERS])
def test_any_other_id_passes(value: str) -> None:
    refuse_request_id_field({"request_id": value})
    raw = value.encode("latin-1")
    refuse_request_id_header({"type": "http", "headers": [(b"x-request-id", raw)]})


@given(st.text(min_size=1))
def test_what_passes_is_one_printable_line_of_bounded_length(value: str) -> None:
    try:
        refuse_request_id_field({"request_id": value})
    except RequestError:
        return
    assert value.isprintable() and len(value.splitlines()) == 1 and len(value) <= MOST_CHARACTERS


@pytest.mark.parametrize("value", [None, 7, ["a"]])
def test_what_is_no_text_is_left_to_vllm(value: object) -> None:
    refuse_request_id_field({"request_id": value})
    refuse_request_id_field({})


@pytest.mark.parametrize("raw", [b"a\x1bb", b"a\x9bb", b"a\x85b", b"x" * 257])
def test_the_header_is_checked_as_the_field_is(raw: bytes) -> None:
    for headers in ([(b"x-request-id", raw)], [(b"x-request-id", b"a"), (b"x-request-id", raw)]):
        with pytest.raises(RequestError) as caught:
            refuse_request_id_header({"type": "http", "headers": headers})
        assert caught.value.param == "x-request-id"
