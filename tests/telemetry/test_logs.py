"""Lines of ours go where vLLM's go, once, and uvicorn's say what clients wrote only escaped."""

from __future__ import annotations

import io
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pilothouse.telemetry.logs import SERVER_LOGGERS, escape_server_lines, log_with_vllm

OURS = "pilothouse.tests.logs"


@pytest.fixture
def vllm_lines() -> Iterator[io.StringIO]:
    """What is printed by a logger `vllm` that is configured as vLLM does it."""
    stream = io.StringIO()
    tree, vllm = logging.getLogger("pilothouse"), logging.getLogger("vllm")
    kept = {each: dict(vars(each)) for each in (tree, vllm)}
    configure(stream)
    log_with_vllm()
    yield stream
    for logger, attributes in kept.items():
        vars(logger).update(attributes)
        logger.setLevel(logger.level)


def configure(stream: io.StringIO, **changes: Any) -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"f": {"format": "VLLM %(levelname)s %(message)s"}},
        "handlers": {"h": {"class": "logging.StreamHandler", "stream": stream, "formatter": "f"}},
        "loggers": {"vllm": {"handlers": ["h"], "level": "INFO", "propagate": False}},
    }
    logging.config.dictConfig(config | changes)


def test_a_line_is_printed_once_in_vllms_format(
    vllm_lines: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger(OURS).info("hello")
    logging.getLogger(OURS).debug("not at this level")
    assert vllm_lines.getvalue() == "VLLM INFO hello\n"
    assert capfd.readouterr() == ("", "")


def test_the_level_follows_when_vllm_is_configured_anew(vllm_lines: io.StringIO) -> None:
    ours = logging.getLogger(OURS)
    assert not ours.isEnabledFor(logging.DEBUG)
    handlers = {"handlers": ["h"], "level": "DEBUG", "propagate": False}
    configure(vllm_lines, loggers={"vllm": handlers})
    ours.debug("now")
    assert vllm_lines.getvalue() == "VLLM DEBUG now\n"


def test_a_configuration_that_disables_what_it_does_not_name_silences_nothing(
    vllm_lines: io.StringIO,
) -> None:
    ours = logging.getLogger(OURS)
    configure(vllm_lines, disable_existing_loggers=True)
    assert ours.disabled
    log_with_vllm()
    ours.info("heard")
    assert vllm_lines.getvalue() == "VLLM INFO heard\n"


def test_an_operator_may_name_our_tree_in_a_configuration_of_their_own(
    vllm_lines: io.StringIO,
) -> None:
    own = {
        "vllm": {"level": "INFO"},
        "pilothouse": {"level": "ERROR", "handlers": ["h"], "propagate": False},
    }
    configure(vllm_lines, loggers=own)
    log_with_vllm()
    logging.getLogger(OURS).info("too low")
    logging.getLogger(OURS).error("once")
    assert vllm_lines.getvalue() == "VLLM ERROR once\n"


def test_caplog_sees_lines_of_ours(
    vllm_lines: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="pilothouse"):
        logging.getLogger(OURS).info("seen")
    assert [each.getMessage() for each in caplog.records] == ["seen"]
    assert vllm_lines.getvalue() == "VLLM INFO seen\n"


FORK = """
import logging, multiprocessing, sys
from pilothouse.telemetry.logs import log_with_vllm
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
vllm = logging.getLogger("vllm")
vllm.handlers, vllm.propagate = [handler], False
vllm.setLevel("INFO")
def child():
    logging.getLogger("pilothouse.child").info("from a fork")
    log_with_vllm()
    logging.getLogger("pilothouse.child").info("again")
log_with_vllm()
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
"""


def test_a_forked_process_prints_each_line_once() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout == "INFO from a fork\nINFO again\n"


@pytest.mark.parametrize("name", SERVER_LOGGERS)
def test_what_a_client_puts_into_a_line_of_the_server_is_escaped_and_bounded(name: str) -> None:
    escape_server_lines()
    escape_server_lines()
    logger = logging.getLogger(name)
    assert len(logger.filters) == 1
    record = logger.makeRecord(
        name,
        logging.INFO,
        "file",
        1,
        '%s - "%s %s HTTP/%s" %d',
        ("evil \x9b2J\x85FORGED:0", "GET", "/a\x1b[31m" + "x" * 9000, "1.1", 200),
        None,
    )
    assert logger.filter(record)
    line = record.getMessage()
    assert line.startswith('evil \\x9b2J\\x85FORGED:0 - "GET /a\\x1b[31mxxx')
    assert line.isascii() and line.isprintable() and len(line) < 3000
