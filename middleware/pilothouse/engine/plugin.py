"""vLLM's general plugin: runs in every process of a server that has Pilothouse installed."""

from __future__ import annotations

import os
import sys

from pilothouse.engine.launch import CONFIG_VARIABLE, GUARDED_VARIABLE
from pilothouse.telemetry.logs import log_with_vllm


def register() -> None:
    """Refuse an unguarded start, and in a guarded one pick decisions up in this process.

    `SystemExit` on purpose: vLLM logs exceptions of plugins and goes on without them.
    """
    guarded = os.environ.get(GUARDED_VARIABLE) == "1"
    if os.environ.get(CONFIG_VARIABLE) and not guarded:
        sys.exit(
            f"{CONFIG_VARIABLE} is set but the server was not started by `pilothouse serve`: it "
            f"would run without its policies. Start it with `pilothouse serve`, or unset "
            f"{CONFIG_VARIABLE}"
        )
    if guarded:
        log_with_vllm()
        from pilothouse.engine.vllm.output_processor import install

        install()
