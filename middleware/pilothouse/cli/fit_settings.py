"""The engine's flags behind `--` as arguments of `LLM`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilothouse.errors import ConfigError

OWN_SETTINGS = ("model", "worker_cls", "scheduler_cls", "additional_config")


def engine_settings(words: Sequence[str]) -> dict[str, Any]:
    """vLLM's engine flags as arguments of `LLM`, those alone that were given.

    Raises:
        ConfigError: a flag that this verb sets itself.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="pilothouse vector fit ... --"))
    given, usual = vars(parser.parse_args(list(words))), vars(parser.parse_args([]))
    settings = {name: value for name, value in given.items() if value != usual[name]}
    taken = sorted(settings.keys() & set(OWN_SETTINGS))
    if taken:
        raise ConfigError(f"behind --: got {', '.join(taken)}, which vector fit sets itself")
    return settings
