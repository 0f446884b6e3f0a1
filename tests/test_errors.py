"""One form of an error: where, what was got, what was wanted, what to do."""

from __future__ import annotations

import pickle

import pytest

from pilothouse.errors import (
    ArtefactError,
    ConfigError,
    PilothouseError,
    RequestError,
    argument,
    spelled,
)


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


def shouted(name: str, value: str | None) -> str:
    return name.upper() if value is None else f"{name.upper()} {value}"


@pytest.mark.parametrize(
    ("marked", "text"),
    [
        (argument("layers"), "layers"),
        (argument("layers", "N"), "layers=N"),
        (argument("top", "12"), "top=12"),
        (argument("on_all", "True"), "on_all=True"),
        (argument("format_name", "npy"), "format_name='npy'"),
        (argument("engine.max_model_len"), "engine['max_model_len']"),
    ],
)
def test_an_error_names_arguments_as_python_does(marked: str, text: str) -> None:
    assert str(ConfigError(f"say {marked} here")) == f"say {text} here"


def test_whoever_shows_an_error_may_spell_its_arguments_otherwise() -> None:
    error = ConfigError(where=argument("kind"), got=1, want=f"2 with {argument('site', 'S')}")
    assert str(error) == "kind: got 1, want 2 with site='S'"
    assert error.spelled(shouted) == "KIND: got 1, want 2 with SITE S"
    told_on = ConfigError(f"line 3: {error.marked}")
    assert told_on.spelled(shouted) == "line 3: KIND: got 1, want 2 with SITE S"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.spelled(shouted)) == (str(error), error.spelled(shouted))


@pytest.mark.parametrize("text", ["", "\ue000", "\ue000site", "\ue000S\ue002", "\ue002\ue001x"])
def test_a_text_with_half_a_mark_stays_as_it_is(text: str) -> None:
    assert spelled(text) == str(ConfigError(text)) == text
