"""`pilothouse serve MODEL [--pilothouse-config FILE] [vllm serve flags]` serves a model."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pilothouse.engine.launch import CONFIG_VARIABLE
from pilothouse.errors import ConfigError
from pilothouse.log_text import log_lines

logger = logging.getLogger(__name__)

OPTION, DTYPE_OPTION = "--pilothouse-config", "--dtype"

HELP = f"""usage: pilothouse serve MODEL [{OPTION} FILE] [vLLM's own serve flags]

Pilothouse:
  {OPTION} FILE   what is loaded and allowed (docs/reference/configuration.md); also
                             {CONFIG_VARIABLE}. Without one, nothing is steered or governed.

Everything else goes to vLLM. Flags that cannot be right under steering are refused at start, each
with its reason. --help=all, --help=ModelConfig and so on show more of vLLM's own.
"""


def run(words: Sequence[str]) -> int:
    """Serve until stopped.

    Raises:
        ConfigError: a file or flag that cannot be used.
    """
    path, rest = split_own(words)
    if any(word in ("-h", "--help") or word.startswith("--help=") for word in rest):
        return _help(rest)
    from pilothouse.cli.launch import config_of, plan_for, serve, vllm_parser

    config = config_of(path)
    command, parser = vllm_parser()
    args = parser.parse_args(["serve", *rest])
    if args.model_tag is not None:
        args.model = args.model_tag
    _warn_of_slow_numbers(args, rest)
    serve(command, args, plan_for(config, args), path)
    return 0


def _warn_of_slow_numbers(args: Namespace, words: Sequence[str]) -> None:
    """Say once that a flag would make this server several times faster; nothing is changed."""
    given = any(word == DTYPE_OPTION or word.startswith(f"{DTYPE_OPTION}=") for word in words)
    if given or args.dtype != "auto":
        return
    from pilothouse.engine.plan.dtype import usual_dtype
    from pilothouse.telemetry.logs import log_with_vllm

    usual = usual_dtype(args)
    if usual.name != args.dtype:
        log_with_vllm()
        told = f"{DTYPE_OPTION} is not given: {usual.why}: try {DTYPE_OPTION} {usual.name}"
        logger.warning("%s", log_lines(told))


def split_own(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Split our one option from everything else, which stays in order.

    Raises:
        ConfigError: the option without a file, or twice.
    """
    found: list[str] = []
    rest: list[str] = []
    pending = iter(words)
    for word in pending:
        name, equals, value = word.partition("=")
        if name.replace("_", "-") != OPTION:
            rest.append(word)
            continue
        file = value if equals else next(pending, "")
        if not file or file.startswith("--"):
            raise ConfigError(f"{OPTION}: got no file; name a pilothouse.yaml after it")
        found.append(file)
    if len(found) > 1:
        raise ConfigError(where=OPTION, got=" and ".join(found), want="one file")
    named = found[0] if found else os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None, rest


def _help(rest: Sequence[str]) -> int:
    print(HELP, flush=True)  # noqa: T201
    from pilothouse.cli.launch import vllm_parser

    _, parser = vllm_parser()
    parser.parse_args(["serve", *rest])
    return 0
