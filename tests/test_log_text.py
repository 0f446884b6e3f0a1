"""Whatever others write, a line of the log stays one line; every call goes through the helper."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pilothouse
from pilothouse.log_text import (
    INDENT,
    MOST_CHARACTERS,
    MOST_LINE_CHARACTERS,
    MOST_LINES,
    log_lines,
    log_text,
    unprintable_escaped,
)

PACKAGE = Path(pilothouse.__file__).parent
WIDEST_ESCAPE = len("\\U0010ffff")
LEVELS = {"debug", "info", "warning", "error", "critical", "log", "exception"}
HELPERS = {"log_text", "log_lines"}
NO_TEXT_OF_OTHERS = {
    "plan.revision",
    "before.revision",
    "after.revision",
    "before",
    "result",
    "type(error).__name__",
    "version('pilothouse')",
}
"""Digests, names of classes and words of ours. A line here needs a reason of this kind."""
DIRECTIVE = re.compile(r"%(?:%|[-+ #0]*\d*(?:\.\d+)?([a-zA-Z]))")

hostile = st.text(
    st.one_of(st.characters(), st.sampled_from("\n\r\x1b\x07\x00\x7f\x85\u2028\u202e\ud800'\"\\")),
    max_size=600,
)


@given(hostile)
def test_a_word_of_others_is_printable_ascii_on_one_line_and_bounded(text: str) -> None:
    told = log_text(text)
    assert told.isascii() and told.isprintable()
    assert len(told) <= MOST_CHARACTERS * WIDEST_ESCAPE + 40
    if len(text) <= MOST_CHARACTERS:
        assert ast.literal_eval(told) == text


@given(hostile)
def test_no_line_of_a_longer_text_can_pass_for_a_line_of_the_log(text: str) -> None:
    first, *others = log_lines(text).split("\n")
    assert len(others) == min(text.count("\n"), MOST_LINES)
    for line in (first, *others):
        assert line.isascii() and line.isprintable()
        assert len(line) <= MOST_LINE_CHARACTERS * WIDEST_ESCAPE + 40
    assert all(line.startswith(INDENT[1:]) for line in others)


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    told = log_lines("\n".join(f"line {i}" for i in range(1000)))
    assert told.startswith("line 0" + INDENT) and told.endswith(INDENT + "line 999")
    assert "(940 lines left out)" in told


def test_plain_text_stays_readable() -> None:
    assert log_text("cmpl-1 of acme") == "'cmpl-1 of acme'"
    assert log_lines("vectors.a: is gone") == "vectors.a: is gone"
    assert unprintable_escaped("GET /v1/models?a=b", 100) == "GET /v1/models?a=b"


def problems(source: str) -> Iterator[str]:
    """What is wrong with the calls of loggers in a file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        said = ast.unparse(node)
        if ast.unparse(node.func).rpartition(".")[2] in {"getLogger", "init_logger"}:
            if said != "logging.getLogger(__name__)":
                yield f"{said}: want logging.getLogger(__name__), so that there is one tree"
            continue
        if not (isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
            continue
        if ast.unparse(node.func.value) not in {"logger", "logging"}:
            continue
        if node.func.attr in {"exception", "log"} or node.keywords or not node.args:
            yield f"{said}: want a message and its parts; a traceback goes through log_lines"
            continue
        message, *parts = node.args
        if not (isinstance(message, ast.Constant) and isinstance(message.value, str)):
            yield f"{said}: want a constant message"
            continue
        kinds = [kind for kind in DIRECTIVE.findall(message.value) if kind]
        if len(kinds) != len(parts):
            yield f"{said}: want a part for each directive"
        for kind, part in zip(kinds, parts, strict=False):
            called = ast.unparse(part.func) if isinstance(part, ast.Call) else None
            known = called in HELPERS or ast.unparse(part) in NO_TEXT_OF_OTHERS
            if kind not in "df" and not known:
                yield f"{said}: {ast.unparse(part)} goes through log_text or log_lines"


# The one place that names other loggers is the one that puts ours below vLLM's.
FILES = [each for each in sorted(PACKAGE.rglob("*.py")) if each.name != "logs.py"]


def test_every_text_in_a_log_line_goes_through_the_helper() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}: {problem}"
        for file in FILES
        for problem in problems(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        'logger.warning("refused %s: %s", request.request_id, log_text(error))',
        'logger.warning(f"refused {path}")',
        'logger.warning("refused " + path)',
        "logger.warning(path)",
        'logger.exception("a record of %s", log_text(name))',
        'logger.error("failed", exc_info=True)',
        'logger.info("%r", name)',
        'logger.info("%-20s", name)',
        'logger = logging.getLogger("vllm.pilothouse")',
        "logger = init_logger(__name__)",
        'logging.warning("%s", path)',
    ],
)
def test_the_check_sees_a_line_that_goes_round_it(line: str) -> None:
    assert len(list(problems(line))) == 1


def test_the_check_lets_numbers_and_helpers_pass() -> None:
    good = 'logger.info("%d taps in %.2f s: %s", count, seconds, log_lines(error))'
    assert list(problems(good)) == []
