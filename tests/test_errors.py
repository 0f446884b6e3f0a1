"""One form of an error: where, what was got, what was wanted, what to do."""

from __future__ import annotations

import pickle

import pytest

from pilothouse.errors import ArtefactError, ConfigError, PilothouseError, RequestError


def test_an_error_of_fields_reads_as_one_sentence() -> None:
    error = ConfigError(where="--port", got=70000, want="at most 65535", fix="name another")
    assert str(error) == "--port: got 70000, want at most 65535; name another"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"where": "a", "got": None, "want": "b"}, "a: got None, want b"),
        ({"where": "a", "got": 1, "fix": "do c"}, "a: got 1; do c"),
        ({"where": "a", "got": 1}, "a: got 1"),
    ],
)
def test_what_goes_without_saying_is_left_out(fields: dict[str, object], text: str) -> None:
    assert str(ArtefactError(**fields)) == text  # type: ignore[arg-type]


def test_what_was_got_is_bounded() -> None:
    assert len(str(PilothouseError(where="a", got="b" * 10_000, want="c"))) < 250


def test_a_refused_request_carries_its_parameter_and_status() -> None:
    error = RequestError(where="n", got=9, want="at most 8", param="n", status=413)
    assert (str(error), error.param, error.status) == ("n: got 9, want at most 8", "n", 413)


def test_an_error_crosses_processes_whole() -> None:
    error = RequestError(where="n", got=9, want="at most 8", param="n", status=413)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.param, again.status) == (str(error), "n", 413)
