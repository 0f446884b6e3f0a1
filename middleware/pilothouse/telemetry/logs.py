"""One tree of loggers, `pilothouse`, that is printed as vLLM's own lines are.

vLLM configures its logger `vllm` alone, in each of its processes and sometimes anew. Our tree hangs
below that one instead of being configured beside it: level, format, stream and file are vLLM's at
any time, so `--log-level`, VLLM_LOGGING_LEVEL, VLLM_CONFIGURE_LOGGING and VLLM_LOGGING_CONFIG_PATH
(where `pilothouse` may be named too) hold for both, and no line is printed twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pilothouse.log_text import unprintable_escaped

TREE: Final = "pilothouse"
SERVER_LOGGERS: Final = ("uvicorn.access", "uvicorn.error")
MOST_CHARACTERS: Final = 2000
"""Of one part of a line of the access log, such as the path."""


def log_with_vllm() -> None:
    """Print the `pilothouse` loggers of this process as vLLM prints its own; may be called again.

    Called where a process of ours begins its work, after vLLM has configured its logger there: a
    configuration that does not say otherwise disables every logger that it does not name.
    """
    ours = logging.getLogger(TREE)
    ours.parent = logging.getLogger("vllm")
    ours.setLevel(ours.level)  # empties the cache of effective levels
    for name in list(logging.Logger.manager.loggerDict):
        if name == TREE or name.startswith(f"{TREE}."):
            logging.getLogger(name).disabled = False


@contextmanager
def errors_alone(name: str) -> Iterator[None]:
    """Silence what a logger of vLLM's says below an error, for as long as the block lasts."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def escape_server_lines() -> None:
    """Escape what clients put into uvicorn's lines, such as an address in a header."""
    for name in SERVER_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Escaped) for each in logger.filters):
            logger.addFilter(_Escaped())


class _Escaped(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Escape and bound each text that is put into the line."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                unprintable_escaped(each, MOST_CHARACTERS) if isinstance(each, str) else each
                for each in record.args
            )
        return True
